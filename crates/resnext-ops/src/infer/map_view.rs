//! Feature maps in memory, as a convolution reads them from a [`FeatureMap`](crate::FeatureMap) or from
//! [`InputImages`](crate::InputImages).

use crate::infer::rows::row_words;
use resnext_kernels::{MapType, PixelView};

/// Feature maps (N, H, W, C). Each row begins with a word; after the last one lies a pixel of zeros, which
/// is what padding reads.
#[derive(Clone, Copy)]
pub(crate) struct MapView<'a> {
    pub(crate) data: &'a [f32],
    /// N, H, W and C.
    pub(crate) size: [usize; 4],
    pub(crate) map_type: MapType,
    /// Channels from one pixel of a row to the next.
    pub(crate) pixel_stride: usize,
}

impl<'a> MapView<'a> {
    /// Words from one row to the next.
    pub(crate) fn row_stride(&self) -> usize {
        row_words(self.size[2], self.pixel_stride, self.map_type)
    }

    /// The pixels, as kernels address them.
    pub(crate) fn pixels(&self) -> PixelView<'a> {
        PixelView { data: self.data, stride: self.pixel_stride / self.map_type.channels() }
    }
}
