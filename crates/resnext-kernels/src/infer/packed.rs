//! A convolution's weights in the order the kernel reads them.

use super::precision::Precision;
use crate::conv_kernel::ConvKernel;
use crate::memory::aligned::AlignedBuffer;
use crate::simd::traits::MAX_LANES;
use crate::threads::shared_slice::SharedSlice;
use rayon::prelude::*;
use std::ops::Range;

/// A convolution's weights, packed once, in the form that the kernel for it reads.
#[derive(Debug)]
pub enum Packed {
    /// Every product of a source word and a weight, as `direct.rs` computes them.
    Direct(DirectWeights),
    /// Grouped kernels of three columns over copied rows, as `grouped_rows.rs` computes them.
    GroupedRows(DirectWeights),
    /// Two channels in one multiplication, as `inner_product.rs` computes them.
    InnerProduct(PackedPanels),
    /// Dense 1×1 convolutions over packed pixels, as `pointwise.rs` computes them.
    Pointwise(PackedPanels),
    /// Tiles of 2×2 output pixels, as `winograd.rs` computes them.
    Winograd(PackedPanels),
}

/// Packed weights: panels of up to two vectors of output channels each. What lies in a panel depends on the form.
#[derive(Debug)]
pub struct PackedPanels {
    pub precision: Precision,
    /// The number of output channels of all groups.
    pub out_channels: usize,
    /// Where each panel lies, and what it reads and writes.
    pub list: Vec<Panel>,
    /// The panels' weights, one panel after the other.
    pub weights: AlignedBuffer,
    /// The panels' biases in f32, each padded with zeros to whole vectors; behind a panel's biases lie its form's own
    /// constants.
    pub bias: AlignedBuffer,
}

/// Weights in the order of the direct kernel: `[kernel position][source word][vectors · LANES]`, padded with zeros.
/// Where sums are integers, the scales of the output channels lie behind the biases.
#[derive(Debug)]
pub struct DirectWeights {
    pub panels: PackedPanels,
    /// The number of kernel positions, height times width.
    pub taps: usize,
    /// Neighbouring kernel positions whose weights lie side by side for each source word: 3 for the row kernels, else 1.
    pub columns: usize,
    /// Where vectors span groups: for each row of a kernel position's weights, the source word that each lane multiplies,
    /// counted from the panel's first.
    pub lane_words: Vec<[u8; MAX_LANES]>,
}

/// The weights of up to two vectors of output channels.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Where its weights lie.
    pub weights: Range<usize>,
    /// Where its biases lie, and its form's constants behind them.
    pub bias: Range<usize>,
    /// The first word it reads of a source pixel.
    pub src_word: usize,
    /// The first channel it writes of an output pixel.
    pub dst_channel: usize,
    /// The number of channels it writes.
    pub width: usize,
    /// The number of vectors of output channels.
    pub vectors: usize,
    /// The number of source words that an output channel sums over per kernel position.
    pub depth: usize,
    /// Whether a vector spans several groups.
    pub spanning: bool,
}

/// The weights and biases of a convolution, to be packed.
pub struct Filter<'a> {
    /// The number of independent groups of channels.
    pub groups: usize,
    /// The number of input channels per group.
    pub group_in: usize,
    /// The number of output channels per group.
    pub group_out: usize,
    /// The number of kernel positions, height times width.
    pub taps: usize,
    /// 3 if sources come in rows ([`RowLayout`](super::job::RowLayout)), else 1.
    pub columns: usize,
    /// Whether the convolution is 3×3 with stride and dilation 1, which Winograd's kernel can compute.
    pub tiled: bool,
    /// `[output channel of all groups][input channel of a group][kernel position]`
    pub weight: &'a [f32],
    /// The bias of each output channel, f32.
    pub bias: &'a [f32],
    /// For int8, the value of one integer step of the sum, per output channel; empty otherwise.
    pub scales: &'a [f32],
}

impl Filter<'_> {
    /// The weights of an output channel, `[input channel of its group][kernel position]`.
    pub fn channel(&self, channel: usize) -> &[f32] {
        let size = self.group_in * self.taps;
        &self.weight[channel * size..(channel + 1) * size]
    }
}

impl Packed {
    /// The panels, whatever their form.
    pub fn panels(&self) -> &PackedPanels {
        match self {
            Packed::Direct(DirectWeights { panels, .. })
            | Packed::GroupedRows(DirectWeights { panels, .. })
            | Packed::InnerProduct(panels)
            | Packed::Pointwise(panels)
            | Packed::Winograd(panels) => panels,
        }
    }

    /// The size of the packed weights in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.panels().weights[..]) + size_of_val(&self.panels().bias[..])
    }

    /// The kernel that computes the convolution.
    pub fn kernel(&self) -> ConvKernel {
        match self {
            Packed::Direct(_) => ConvKernel::RegisterTiles,
            Packed::GroupedRows(_) => ConvKernel::GroupedRows,
            Packed::InnerProduct(_) => ConvKernel::InnerProducts,
            Packed::Pointwise(_) => ConvKernel::PackedPixels,
            Packed::Winograd(_) => ConvKernel::WinogradTiles,
        }
    }

    /// Whether Winograd's kernel computes the convolution, which reads [`Sources::Tiles`](super::job::Sources::Tiles).
    pub fn is_winograd(&self) -> bool {
        matches!(self, Packed::Winograd(_))
    }
}

impl PackedPanels {
    /// Packs the panels in `list`: `fill` writes a panel's weights, and the constants behind its biases.
    pub fn pack(
        precision: Precision,
        filter: &Filter,
        list: Vec<Panel>,
        fill: impl Fn(&Panel, &mut [f32], &mut [f32]) + Sync,
    ) -> Self {
        let end = |of: fn(&Panel) -> &Range<usize>| list.last().map_or(0, |last| of(last).end);
        let mut weights = AlignedBuffer::zeros_parallel(end(|panel| &panel.weights));
        let mut bias = AlignedBuffer::zeros(end(|panel| &panel.bias));
        let (out, constants) = (SharedSlice::new(&mut weights), SharedSlice::new(&mut bias));
        list.par_iter().for_each(|panel| {
            // SAFETY: panels' weights do not overlap, nor do their biases.
            let (values, constants) = unsafe {
                let Panel { weights, bias, .. } = panel;
                (out.slice(weights.start, weights.len()), constants.slice(bias.start, bias.len()))
            };
            let bias = &filter.bias[panel.dst_channel..][..panel.width];
            constants[..panel.width].copy_from_slice(bias);
            fill(panel, values, constants);
        });
        PackedPanels { precision, out_channels: filter.groups * filter.group_out, list, weights, bias }
    }

    /// The number of words that each source pixel must have.
    pub fn reach(&self) -> usize {
        let (lanes, _) = self.precision.tile();
        let reach = |p: &Panel| p.src_word + if p.spanning { lanes } else { p.depth };
        self.list.iter().map(reach).max().unwrap_or(0)
    }
}
