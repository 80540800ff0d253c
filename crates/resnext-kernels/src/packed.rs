//! A convolution's weights in the order the kernel reads them.

use super::lines::Lines;
use super::paired;
use super::shared::{SharedMut, spans_groups};
use super::winograd;
use super::words::{MAX_LANES, Words, pair, quad};
use rayon::prelude::*;
use std::ops::Range;

/// Weights packed once: panels of up to two vectors of output channels.
#[derive(Debug)]
pub struct Packed {
    pub(super) words: Words,
    pub(super) taps: usize,
    /// Neighbouring taps whose weights lie beside each other, a word: 3 for tiles of neighbours, or 1.
    pub(super) columns: usize,
    pub(super) out_channels: usize,
    pub(super) panels: Vec<Panel>,
    /// One after another, all panels' `[tap][source word][vectors · LANES]`, padded with zeros.
    pub(super) weights: Lines,
    /// A panel's width each, padded with zeros, f32. Behind them as many scales of output channels, if sums are whole
    /// numbers, or a form's own constants.
    pub(super) bias: Lines,
    /// Where vectors span groups: for each row of weights of a tap, the source word that a lane multiplies, from
    /// the panel's first on.
    pub(super) lane_words: Vec<[u8; MAX_LANES]>,
    pub(super) form: Form,
}

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Every product of a source word and a weight.
    Direct,
    /// As [`paired`] does.
    Paired,
    /// As [`winograd`] does.
    Tiles,
}

/// The weights of up to two vectors of output channels.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    /// Where its weights and biases lie.
    pub(super) weights: Range<usize>,
    pub(super) bias: Range<usize>,
    /// The first word read of a source pixel, and the first channel written of an output pixel.
    pub(super) src_word: usize,
    pub(super) dst_channel: usize,
    /// Channels written.
    pub(super) width: usize,
    pub(super) vectors: usize,
    /// Source words an output channel sums over, a tap.
    pub(super) depth: usize,
    /// Whether a vector spans several groups.
    pub(super) spanning: bool,
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
    pub(super) fn channel(&self, channel: usize) -> &[f32] {
        let size = self.group_in * self.taps;
        &self.weight[channel * size..(channel + 1) * size]
    }
}

impl Packed {
    pub fn new(words: Words, filter: &Filter) -> Self {
        let (form, panels) = if paired::suits(words, filter) {
            (Form::Paired, paired::panels(words, filter))
        } else if winograd::suits(words, filter) {
            (Form::Tiles, winograd::panels(words, filter))
        } else {
            (Form::Direct, panels(words, filter))
        };
        let Filter { groups, group_in, group_out, taps, columns, .. } = *filter;
        let ((lanes, _), channels) = (words.tile(), words.channels());
        let spanned = match panels.first() {
            Some(Panel { spanning: true, depth, .. }) => *depth,
            _ => 0,
        };
        let word = |lane: usize, c: usize| (lane % lanes / group_in * group_in / channels + c) as u8;
        let lane_words = (0..spanned).map(|c| std::array::from_fn(|lane| word(lane, c))).collect();
        let end = |of: fn(&Panel) -> &Range<usize>| panels.last().map_or(0, |last| of(last).end);
        let mut packed = Packed {
            words,
            taps,
            columns,
            out_channels: groups * group_out,
            weights: Lines::zeros_by_all(end(|panel| &panel.weights)),
            bias: Lines::zeros(end(|panel| &panel.bias)),
            panels,
            lane_words,
            form,
        };
        let (out, constants) = (SharedMut::new(&mut packed.weights), SharedMut::new(&mut packed.bias));
        packed.panels.par_iter().for_each(|panel| {
            // SAFETY: panels' weights do not overlap, nor do their biases.
            let (values, constants) = unsafe {
                let Panel { weights, bias, .. } = panel;
                (out.slice(weights.start, weights.len()), constants.slice(bias.start, bias.len()))
            };
            let bias = &filter.bias[panel.dst_channel..][..panel.width];
            constants[..panel.width].copy_from_slice(bias);
            match form {
                Form::Paired => paired::fill(panel, values, constants, filter),
                Form::Tiles => winograd::fill(words, panel, values, filter),
                Form::Direct => {
                    if !filter.scales.is_empty() {
                        let scales = &filter.scales[panel.dst_channel..][..panel.width];
                        constants[panel.vectors * lanes..][..panel.width].copy_from_slice(scales);
                    }
                    panel.fill(values, filter, panel.vectors * lanes, channels, &packed.lane_words);
                }
            }
        });
        packed
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.weights[..]) + size_of_val(&self.bias[..])
    }

    /// Whether it is computed in tiles.
    pub fn tiled(&self) -> bool {
        self.form == Form::Tiles
    }

    /// The words each pixel of a source has to have.
    pub(super) fn reach(&self) -> usize {
        let (lanes, _) = self.words.tile();
        let reach = |p: &Panel| p.src_word + if p.spanning { lanes } else { p.depth };
        self.panels.iter().map(reach).max().unwrap_or(0)
    }
}

fn panels(words: Words, filter: &Filter) -> Vec<Panel> {
    let Filter { groups, group_in, group_out, taps, columns, .. } = *filter;
    let ((lanes, _), channels) = (words.tile(), words.channels());
    let constants = if filter.scales.is_empty() { 1 } else { 2 };
    let mut panels = Vec::new();
    let (mut weights, mut biases) = (0, 0);
    let spanning = spans_groups(lanes, groups, group_in, group_out);
    let (blocks, width) = if spanning { (1, groups * group_out) } else { (groups, group_out) };
    let step = if spanning || columns > 1 { lanes } else { 2 * lanes };
    for block in 0..blocks {
        for first in (0..width).step_by(step) {
            let panel_width = step.min(width - first);
            let vectors = panel_width.div_ceil(lanes);
            let src_channel = if spanning { first } else { block * group_in };
            let src_word = src_channel / channels;
            let depth = match spanning {
                true => group_in.div_ceil(channels),
                false => (src_channel + group_in).div_ceil(channels) - src_word,
            };
            let (weights_end, biases_end) =
                (weights + taps * depth * vectors * lanes, biases + constants * vectors * lanes);
            panels.push(Panel {
                weights: weights..weights_end,
                bias: biases..biases_end,
                src_word,
                dst_channel: block * group_out + first,
                width: panel_width,
                vectors,
                depth,
                spanning,
            });
            (weights, biases) = (weights_end, biases_end);
        }
    }
    panels
}

impl Panel {
    /// Writes rows of `width` words.
    fn fill(
        &self,
        values: &mut [f32],
        filter: &Filter,
        width: usize,
        channels: usize,
        lane_words: &[[u8; MAX_LANES]],
    ) {
        let Filter { group_in, group_out, columns, taps, .. } = *filter;
        for (row, values) in values.chunks_exact_mut(width).enumerate() {
            let (c, column) = (row / columns % self.depth, row % columns);
            let tap = row / columns / self.depth * columns + column;
            for (l, value) in values[..self.width].iter_mut().enumerate() {
                let group = (self.dst_channel + l) / group_out;
                let weights = filter.channel(self.dst_channel + l);
                let word = lane_words.get(c).map_or(c, |words| usize::from(words[l]));
                let first = (self.src_word + word) * channels;
                // A word's neighbouring channel may be another group's.
                let of = |channel: usize| match channel.checked_sub(group * group_in) {
                    Some(i) if i < group_in => weights[i * taps + tap],
                    _ => 0.0,
                };
                *value = match channels {
                    1 => of(first),
                    2 => pair(of(first), of(first + 1)),
                    _ => quad(std::array::from_fn(|i| of(first + i))),
                };
            }
        }
    }
}
