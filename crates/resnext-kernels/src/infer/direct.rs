//! The direct kernel: every product of a source word and a weight.

use super::job::Row;
use super::packed::{Filter, Panel};
use super::precision::{Precision, pair, quad};
use super::split::{TILE, strips};
use super::tiles::{Strip, Task, row_tile};
use crate::group_lanes::spans_groups;
use crate::simd::traits::MAX_LANES;

pub fn panels(precision: Precision, filter: &Filter) -> Vec<Panel> {
    let Filter { groups, group_in, group_out, taps, columns, .. } = *filter;
    let ((lanes, _), channels) = (precision.tile(), precision.channels());
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
    pub fn fill(
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

impl Task<'_> {
    pub fn compute(&self) {
        for panel in self.panels {
            match self.row {
                Some(row) => self.rows(panel, row),
                None => self.pixels(panel),
            }
        }
    }

    fn pixels(&self, panel: &Panel) {
        let precision = self.packed.precision;
        let (_, most) = precision.tile();
        for (tile, pixels) in strips(self.pixels.clone(), most) {
            let strip = Strip { task: self, panel, pixels };
            match tile {
                TILE => strip.compute_tiles::<TILE>(precision),
                7 => strip.compute_tiles::<7>(precision),
                6 => strip.compute_tiles::<6>(precision),
                4 => strip.compute_tiles::<4>(precision),
                2 => strip.compute_tiles::<2>(precision),
                _ => strip.compute_tiles::<1>(precision),
            }
        }
    }

    /// Of the tiles that registers have room for, those that cover a row in the fewest steps: an instruction waits for
    /// the one before on the same sum, so that fewer than eight sums take as long as eight. Two short rows go together.
    fn rows(&self, panel: &Panel, row: Row) {
        let precision = self.packed.precision;
        let most = row_tile(precision.tile().1);
        let sizes = [16, 14, 8, 7, 4, 2].into_iter().filter(|&m| m <= row.width.min(most));
        let steps = |m: &usize| row.width.div_ceil(*m) * (*m).max(8);
        let strip = Strip { task: self, panel, pixels: self.pixels.clone() };
        let both = most == 16 && row.stride == 1;
        match (sizes.min_by_key(steps), both) {
            (Some(16), _) => strip.compute_rows::<16, 1>(precision, row),
            (Some(14), _) => strip.compute_rows::<14, 1>(precision, row),
            (Some(8), true) => strip.compute_rows::<8, 2>(precision, row),
            (Some(7), true) => strip.compute_rows::<7, 2>(precision, row),
            (Some(8), _) => strip.compute_rows::<8, 1>(precision, row),
            (Some(7), _) => strip.compute_rows::<7, 1>(precision, row),
            (Some(4), true) => strip.compute_rows::<4, 2>(precision, row),
            (Some(4), _) => strip.compute_rows::<4, 1>(precision, row),
            (Some(_), _) => strip.compute_rows::<2, 1>(precision, row),
            (None, _) => strip.compute_rows::<1, 1>(precision, row),
        }
    }
}
