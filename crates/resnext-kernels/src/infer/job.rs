//! One convolution of inference: what it reads, what it writes, and what happens to its sums.

use super::packed::{Packed, PackedPanels};
use crate::winograd::Tiling;

/// Where pixels lie: `pixel · stride` words from the start.
#[derive(Clone, Copy)]
pub struct Pixels<'a> {
    pub data: &'a [f32],
    pub stride: usize,
}

/// What each output pixel reads.
#[derive(Clone, Copy)]
pub enum Sources<'a> {
    /// The source pixel of the same number.
    Same,
    /// Looked up.
    Table(&'a SourceTable),
    /// The 4×4 pixels of its tile, for weights packed for Winograd's kernel.
    Tiles(&'a Tiling),
}

/// What each output pixel reads by itself.
#[derive(Clone, Copy)]
pub enum PixelSources<'a> {
    /// As [`Sources::Same`].
    Same,
    /// As [`Sources::Table`].
    Table(&'a SourceTable),
}

/// The places, in words from the start, of the source pixels that each output pixel reads.
#[derive(Debug)]
pub struct SourceTable {
    /// `[output pixel][tap]`
    pub offsets: Vec<u32>,
    /// The largest of them.
    pub farthest: usize,
    pub row: Option<Row>,
}

/// Rows of output pixels that lie `stride` source pixels apart, with taps that are neighbours.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub width: usize,
    pub stride: usize,
}

impl SourceTable {
    pub fn new(offsets: Vec<u32>, row: Option<Row>) -> Self {
        let farthest = offsets.iter().copied().max().unwrap_or(0) as usize;
        SourceTable { offsets, farthest, row }
    }
}

/// What is done with sums in the end, in the output's units.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue {
    /// What outputs are at least: with ReLU, zero.
    pub least: f32,
    /// Of quantized maps, one of the residual's steps.
    pub residual_step: f32,
    /// Of quantized maps, added to all: takes the residual's zero off.
    pub offset: f32,
}

/// One convolution: `out = conv(src) + bias`, `+ residual` and ReLU where asked for.
pub struct Job<'a> {
    pub src: Pixels<'a>,
    pub residual: Option<Pixels<'a>>,
    pub epilogue: Epilogue,
    /// Output pixels.
    pub count: usize,
    pub out: &'a mut [f32],
    pub out_stride: usize,
    /// Weights that the next convolutions read, to be fetched from memory while this one computes.
    /// At most [`AHEAD`](super::prefetch_plan::AHEAD).
    pub ahead: &'a [&'a Packed],
}

impl PixelSources<'_> {
    /// Asserts that a job's source has all pixels that are read, `reach` words each.
    pub fn check(&self, job: &Job, taps: usize, reach: usize) {
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
    /// Asserts that there is room for the output, and a residual as large.
    pub fn check(&self, job: &Job) {
        let channels = self.precision.written();
        let holds = |len: usize, stride: usize| {
            job.count == 0 || len >= (job.count - 1) * stride + self.out_channels.div_ceil(channels)
        };
        assert!(holds(job.out.len(), job.out_stride));
        assert!(job.residual.is_none_or(|r| holds(r.data.len(), r.stride)));
    }
}
