//! A convolution's weights in the order the kernel reads them.

use super::precision::{Precision, bf16_bits, halves, halves_mut};
use crate::conv_kernel::ConvKernel;
use crate::memory::aligned::AlignedBuffer;
use crate::memory::scratch::Scratch;
use crate::simd::dispatch::dispatch;
use crate::simd::traits::{Kernel, MAX_LANES, Simd};
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
    /// bf16 and int8 by AMX's tiles, as `matrix_tiles.rs` computes them.
    MatrixTiles(DirectWeights),
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
    /// How words of weights are stored in memory.
    pub stored: Stored,
    /// The panels' biases in f32, each padded with zeros to whole vectors and followed by the constants of the panel's
    /// form.
    pub bias: AlignedBuffer,
}

/// How words of weights are stored in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// As the words that kernels multiply.
    Words,
    /// f32 as bf16, two to a word.
    Bf16,
}

/// Weights in the order of the direct kernel: `[kernel position][source word][vectors · LANES]`, padded with zeros.
/// Where sums are integers, the scales of the output channels follow the biases.
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
    /// Where its weights lie, in words as kernels multiply them.
    pub weights: Range<usize>,
    /// Where its biases lie, followed by its form's constants.
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

/// The largest allowed sum of the magnitudes of two neighbouring int8 weights: the sum of their products with any two u8
/// then fits an i16, in which AVX2 computes it.
pub const MAX_PAIR_SUM: i32 = 128;

const _: () = assert!(MAX_PAIR_SUM * u8::MAX as i32 <= i16::MAX as i32);

/// The largest sum of the magnitudes of two neighbouring weights: of two channels that follow each other in a word of four,
/// at one kernel position. `weights` are those of an output channel, `[input channel of its group][kernel position]`; the
/// group begins with channel `first` of the map.
pub fn max_pair_sum(weights: &[f32], first: usize, group_in: usize) -> f32 {
    let taps = weights.len() / group_in;
    let of = |channel: usize| &weights[channel * taps..(channel + 1) * taps];
    (0..group_in).fold(0f32, |most, channel| {
        match (first + channel).is_multiple_of(2) && channel + 1 < group_in {
            true => {
                of(channel).iter().zip(of(channel + 1)).fold(most, |most, (w, v)| most.max(w.abs() + v.abs()))
            }
            false => of(channel).iter().fold(most, |most, w| most.max(w.abs())),
        }
    })
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
    /// `[output channel of all groups][input channel of a group][kernel position]`; for int8, integers, of which
    /// the magnitudes of two channels that follow each other in a word add up to at most [`MAX_PAIR_SUM`].
    pub weight: &'a [f32],
    /// The bias of each output channel, f32.
    pub bias: &'a [f32],
    /// For int8, the value of one integer step of the sum, per output channel; empty otherwise.
    pub scales: &'a [f32],
}

impl Filter<'_> {
    /// Whether int8 weights keep to the limit that [`weight`](Self::weight) states.
    pub(super) fn fits_int8(&self) -> bool {
        let first = |channel: usize| channel / self.group_out * self.group_in;
        (0..self.groups * self.group_out)
            .all(|k| max_pair_sum(self.channel(k), first(k), self.group_in) <= MAX_PAIR_SUM as f32)
    }

    /// The weights of an output channel, `[input channel of its group][kernel position]`.
    pub fn channel(&self, channel: usize) -> &[f32] {
        let size = self.group_in * self.taps;
        &self.weight[channel * size..(channel + 1) * size]
    }
}

impl DirectWeights {
    /// The same weights, stored in bf16: [`PackedPanels::narrowed`].
    fn narrowed(self) -> Self {
        DirectWeights { panels: self.panels.narrowed(), ..self }
    }
}

impl Packed {
    /// The panels, whatever their form.
    pub fn panels(&self) -> &PackedPanels {
        match self {
            Packed::Direct(DirectWeights { panels, .. })
            | Packed::GroupedRows(DirectWeights { panels, .. })
            | Packed::MatrixTiles(DirectWeights { panels, .. })
            | Packed::InnerProduct(panels)
            | Packed::Pointwise(panels)
            | Packed::Winograd(panels) => panels,
        }
    }

    /// Stores f32 weights as bf16, to which they are rounded: half the memory, and half of what a layer reads. Kernels
    /// widen them again, a panel at a time, and compute in f32. Winograd's weights and those of inner products, which are
    /// sums, stay f32, as do biases.
    pub fn with_bf16_weights(self) -> Self {
        let f32 = |panels: &PackedPanels| matches!(panels.precision, Precision::F32(_));
        match self {
            Packed::Direct(weights) if f32(&weights.panels) => Packed::Direct(weights.narrowed()),
            Packed::GroupedRows(weights) if f32(&weights.panels) => Packed::GroupedRows(weights.narrowed()),
            Packed::Pointwise(panels) if f32(&panels) => Packed::Pointwise(panels.narrowed()),
            packed => packed,
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
            Packed::MatrixTiles(_) => ConvKernel::MatrixTiles,
            Packed::Pointwise(_) => ConvKernel::PackedPixels,
            Packed::Winograd(_) => ConvKernel::WinogradTiles,
        }
    }

    /// Whether Winograd's kernel computes the convolution, which reads [`Sources::Tiles`](super::job::Sources::Tiles).
    pub fn is_winograd(&self) -> bool {
        matches!(self, Packed::Winograd(_))
    }
}

/// Widens bf16 to f32.
struct Widen<'a> {
    halves: &'a [u16],
    wide: &'a mut [f32],
}

impl Kernel<f32> for Widen<'_> {
    // A loop, not an iterator's closure, which would be compiled without S's instructions.
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = f32>>(self) {
        let Widen { halves, wide } = self;
        for (wide, half) in wide.iter_mut().zip(halves) {
            *wide = f32::from_bits(u32::from(*half) << 16);
        }
    }
}

impl PackedPanels {
    /// Packs the panels in `list`: `fill` writes a panel's weights, and the constants after its biases.
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
        let out_channels = filter.groups * filter.group_out;
        PackedPanels { precision, out_channels, list, weights, stored: Stored::Words, bias }
    }

    /// Stores each word of f32 as the nearest bf16.
    fn narrowed(self) -> Self {
        assert!(self.stored == Stored::Words);
        let mut weights = AlignedBuffer::zeros_parallel(self.weights.len().div_ceil(2));
        // Words of which tasks share none.
        const CHUNK: usize = 1 << 14;
        halves_mut(&mut weights)
            .par_chunks_mut(CHUNK)
            .zip(self.weights.par_chunks(CHUNK))
            .for_each(|(halves, words)| halves.iter_mut().zip(words).for_each(|(h, &w)| *h = bf16_bits(w)));
        PackedPanels { weights, stored: Stored::Bf16, ..self }
    }

    /// Some of the weights, as kernels multiply them: in place if they lie so in memory, else widened into `wide`.
    pub fn widened<'a>(&'a self, words: Range<usize>, wide: &'a mut Scratch<f32>) -> &'a [f32] {
        if self.stored == Stored::Words {
            return &self.weights[words];
        }
        let (halves, wide) = (&halves(&self.weights)[words.clone()], wide.get(words.len()));
        dispatch(self.precision.isa(), Widen { halves, wide });
        wide
    }

    /// The number of words that each source pixel must have.
    pub fn reach(&self) -> usize {
        let (lanes, _) = self.precision.tile();
        let reach = |p: &Panel| p.src_word + if p.spanning { lanes } else { p.depth };
        self.list.iter().map(reach).max().unwrap_or(0)
    }
}
