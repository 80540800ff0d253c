//! A convolution's weights in the order the kernel reads them.

use super::precision::Precision;
use crate::memory::aligned::AlignedBuffer;
use crate::simd::traits::MAX_LANES;
use std::ops::Range;

/// Weights packed once: panels of up to two vectors of output channels.
#[derive(Debug)]
pub struct Packed {
    pub precision: Precision,
    pub taps: usize,
    /// Neighbouring taps whose weights lie beside each other, a word: 3 for tiles of neighbours, or 1.
    pub columns: usize,
    pub out_channels: usize,
    pub panels: Vec<Panel>,
    /// One after another, all panels' `[tap][source word][vectors · LANES]`, padded with zeros.
    pub weights: AlignedBuffer,
    /// A panel's width each, padded with zeros, f32. Behind them as many scales of output channels, if sums are whole
    /// numbers, or a form's own constants.
    pub bias: AlignedBuffer,
    /// Where vectors span groups: for each row of weights of a tap, the source word that a lane multiplies, from
    /// the panel's first on.
    pub lane_words: Vec<[u8; MAX_LANES]>,
    pub form: Form,
}

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Every product of a source word and a weight.
    Direct,
    /// As [`inner_product`](super::inner_product) does.
    Paired,
    /// As [`winograd`](super::winograd) does.
    Tiles,
}

/// The weights of up to two vectors of output channels.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Where its weights and biases lie.
    pub weights: Range<usize>,
    pub bias: Range<usize>,
    /// The first word read of a source pixel, and the first channel written of an output pixel.
    pub src_word: usize,
    pub dst_channel: usize,
    /// Channels written.
    pub width: usize,
    pub vectors: usize,
    /// Source words an output channel sums over, a tap.
    pub depth: usize,
    /// Whether a vector spans several groups.
    pub spanning: bool,
}

/// What is packed: `groups` times as many channels as a group has.
pub struct Filter<'a> {
    pub groups: usize,
    pub group_in: usize,
    pub group_out: usize,
    pub taps: usize,
    /// 3 if sources come in rows of neighbours, or 1.
    pub columns: usize,
    /// Whether taps are 3×3 neighbours and output pixels as far apart as they.
    pub tiled: bool,
    /// `[output channel of all groups][input channel of a group][tap]`
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    /// Of whole numbers, what one is worth, an output channel; else none.
    pub scales: &'a [f32],
}

impl Filter<'_> {
    /// The weights of an output channel, `[input channel of its group][tap]`.
    pub fn channel(&self, channel: usize) -> &[f32] {
        let size = self.group_in * self.taps;
        &self.weight[channel * size..(channel + 1) * size]
    }
}

impl Packed {
    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.weights[..]) + size_of_val(&self.bias[..])
    }

    /// Whether it is computed in tiles.
    pub fn tiled(&self) -> bool {
        self.form == Form::Tiles
    }

    /// The words each pixel of a source has to have.
    pub fn reach(&self) -> usize {
        let (lanes, _) = self.precision.tile();
        let reach = |p: &Panel| p.src_word + if p.spanning { lanes } else { p.depth };
        self.panels.iter().map(reach).max().unwrap_or(0)
    }
}
