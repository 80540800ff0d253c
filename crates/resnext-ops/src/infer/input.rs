//! Input images for the first convolution of a network, in a reused buffer.

use crate::error::{Error, Result};
use crate::infer::map_view::MapView;
use crate::infer::rows::{OP, dims, put_rows, row_words};
use candle_core::{DType, Tensor};
use resnext_kernels::{AlignedBuffer, MAX_LANES, MapType, ThreadTeam};

/// How a [`FusedConv`](crate::FusedConv) reads its input images: which channels, in which type, how far
/// apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputFormat {
    pub(crate) channels: usize,
    pub(crate) map_type: MapType,
    /// Channels from one pixel of a row to the next.
    pub(crate) pixel_stride: usize,
}

/// Input images (N, H, W, C) with a border of zeros, in the format that one [`FusedConv`](crate::FusedConv)
/// reads. For a kernel whose rows are read as runs of channels, pixels follow each other without gaps; in
/// bf16 a word then holds channels of two pixels.
#[derive(Debug, Clone, Default)]
pub struct InputImages {
    data: AlignedBuffer,
    /// N, H, W and C, border included.
    size: [usize; 4],
    /// Channels from one pixel of a row to the next. Each row begins with a word.
    pixel_stride: usize,
    map_type: MapType,
}

impl InputImages {
    /// Creates an empty buffer; [`load`](Self::load) fills it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Copies an f32 tensor (N, C, H, W) with a border of `border` zeros on all sides, in `format`.
    ///
    /// # Errors
    /// If the tensor does not have four dimensions, is not f32 or not on the CPU, or has another number of
    /// channels than `format`, or if `format` is int8: images are signed, and int8 maps that a convolution
    /// reads are not.
    pub fn load(&mut self, team: &ThreadTeam, x: &Tensor, format: InputFormat, border: usize) -> Result<()> {
        let [n, c, h, w] = dims(x)?;
        let InputFormat { channels, map_type, pixel_stride } = format;
        if c != channels {
            let message = format!("expected images of {channels} channels, got {c}");
            return Err(Error::Config { op: OP, message });
        }
        if let MapType::U8(_) = map_type {
            let expected = "F32 or BF16".into();
            return Err(Error::DType { op: OP, input: "maps", expected, got: DType::U8 });
        }
        (self.map_type, self.pixel_stride) = (map_type, pixel_stride);
        self.size = [n, h + 2 * border, w + 2 * border, c];
        let end = n * self.size[1] * row_words(self.size[2], pixel_stride, map_type);
        // A pixel of zeros lies after the last row, and a kernel may read a vector that begins in it.
        let len = end + pixel_stride.div_ceil(map_type.channels()) + MAX_LANES;
        self.data.grow(len);
        self.data[end..len].fill(0.0);
        put_rows(team, x, border, map_type, pixel_stride, &mut self.data)
    }

    pub(crate) fn view(&self) -> MapView<'_> {
        let InputImages { ref data, size, pixel_stride, map_type } = *self;
        MapView { data, size, map_type, pixel_stride }
    }
}
