//! One convolution of inference: its input, its output, and the epilogue of its sums.

use super::packed::{Packed, PackedPanels};
use super::source_rows::SourceRows;
use crate::winograd::Tiling;
use std::sync::OnceLock;

/// A view of a map's pixels: pixel `i` begins `i · stride` words from the start. A word is 32 bits: one channel in f32,
/// two in bf16, four in int8.
#[derive(Clone, Copy)]
pub struct PixelView<'a> {
    /// The words of all pixels, and of any gaps between them.
    pub data: &'a [f32],
    /// The number of words from the start of one pixel to that of the next.
    pub stride: usize,
}

/// The source pixels of each output pixel.
#[derive(Clone, Copy)]
pub enum Sources<'a> {
    /// The source pixel of the same index, as in a 1×1 convolution of stride 1.
    Same,
    /// One source pixel per kernel position, looked up in a table.
    Table(&'a SourceTable),
    /// The 4×4 source pixels of its tile, for weights packed for Winograd's kernel.
    Tiles(&'a Tiling),
}

/// The source pixels of each output pixel, for kernels that compute pixel by pixel.
#[derive(Clone, Copy)]
pub enum PixelSources<'a> {
    /// The source pixel of the same index: [`Sources::Same`].
    Same,
    /// One source pixel per kernel position: [`Sources::Table`].
    Table(&'a SourceTable),
}

/// Which source pixel each kernel position of each output pixel reads, as word offsets into the source.
#[derive(Debug)]
pub struct SourceTable {
    /// `[output pixel][kernel position]`
    pub offsets: Vec<u32>,
    /// The largest offset.
    pub farthest: usize,
    /// The layout of the output's rows, if the row kernels may compute them.
    pub row: Option<RowLayout>,
    /// The source rows that these rows read, which the kernel for grouped rows finds once.
    pub(super) source_rows: OnceLock<SourceRows>,
}

/// Rows of output pixels whose kernel positions are horizontal neighbours in the source: three columns, dilation 1.
#[derive(Debug, Clone, Copy)]
pub struct RowLayout {
    /// The number of output pixels per row.
    pub width: usize,
    /// Source pixels from one output pixel to the next: 1 or 2.
    pub stride: usize,
}

impl SourceTable {
    /// Builds a table from `offsets`, `[output pixel][kernel position]`.
    pub fn new(offsets: Vec<u32>, row: Option<RowLayout>) -> Self {
        let farthest = offsets.iter().copied().max().unwrap_or(0) as usize;
        SourceTable { offsets, farthest, row, source_rows: OnceLock::new() }
    }
}

/// The steps from sums to stored outputs, beside bias and residual. Values are in the output's units, which for quantized
/// maps are its steps.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue {
    /// Lower bound of the outputs: zero with ReLU, negative infinity without.
    pub least: f32,
    /// For quantized maps, the residual's step size in output steps.
    pub residual_step: f32,
    /// For quantized maps, an offset added to every sum, which removes the residual's zero point.
    pub offset: f32,
}

/// One convolution: `out = max(conv(src) + bias + residual, least)`. All maps have the element types of the weights'
/// [`Precision`](super::precision::Precision).
pub struct ConvJob<'a> {
    /// The input's pixels.
    pub src: PixelView<'a>,
    /// A map of the output's size that is added to it before ReLU.
    pub residual: Option<PixelView<'a>>,
    /// The lower bound of the outputs and, for quantized maps, the conversion of units.
    pub epilogue: Epilogue,
    /// The number of output pixels.
    pub count: usize,
    /// The output: `count` pixels that begin `out_stride` words from each other.
    pub out: &'a mut [f32],
    /// The number of words from the start of one output pixel to that of the next.
    pub out_stride: usize,
    /// Weights of the next convolutions, at most three, which are prefetched while this one computes.
    pub ahead: &'a [&'a Packed],
}

impl PixelSources<'_> {
    /// Asserts that a job's source holds every pixel that is read, `reach` words of each.
    pub fn check(&self, job: &ConvJob, taps: usize, reach: usize) {
        let last = match self {
            PixelSources::Same => job.count.saturating_sub(1) * job.src.stride,
            PixelSources::Table(table) => {
                assert_eq!(table.offsets.len(), job.count * taps);
                table.farthest
            }
        };
        assert!(job.count == 0 || job.src.data.len() >= last + reach);
    }
}

impl PackedPanels {
    /// Asserts that the output has room for every pixel, and that a residual has as many.
    pub fn check(&self, job: &ConvJob) {
        let channels = self.precision.written();
        let holds = |len: usize, stride: usize| {
            job.count == 0 || len >= (job.count - 1) * stride + self.out_channels.div_ceil(channels)
        };
        assert!(holds(job.out.len(), job.out_stride));
        assert!(job.residual.is_none_or(|r| holds(r.data.len(), r.stride)));
    }
}
