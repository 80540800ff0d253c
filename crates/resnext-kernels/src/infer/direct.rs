//! The direct kernel: every source word times its weights, for any kernel size, stride and group width.

use super::job::{ConvJob, PixelSources, RowLayout, SourceTable};
use super::packed::{DirectWeights, Filter, PackedPanels, Panel};
use super::precision::{Precision, bytes_mut, pair, quad};
use super::tiles::{DirectTask, ROW_TILES, STEP, Strip, has_row_tile};
use crate::group_lanes::{ChannelPanel, channel_panels};
use crate::memory::scratch::Scratch;
use crate::simd::traits::MAX_LANES;
use crate::threads::shared_slice::SharedSlice;
use crate::threads::split::Split;
use crate::threads::team::ThreadTeam;
use std::ops::Range;

/// Pixels of the largest tile.
const TILE: usize = 14;

/// Divides pixels into strips of whole tiles, each with its tile size: the largest tiles of at most `most` pixels come
/// first, and smaller ones take the rest.
fn strips(pixels: Range<usize>, most: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut start = pixels.start;
    std::iter::from_fn(move || {
        let rest = pixels.end - start;
        let tile = [TILE, 7, 6, 4, 2, 1].into_iter().find(|&tile| tile <= rest.min(most))?;
        let strip = start..start + rest / tile * tile;
        start = strip.end;
        Some((tile, strip))
    })
}

/// Packs a filter.
pub fn pack(precision: Precision, filter: &Filter) -> DirectWeights {
    let columns = if precision.has_rows() { filter.columns } else { 1 };
    pack_columns(precision, &Filter { columns, ..*filter })
}

/// Packs a filter with its columns side by side, for a kernel that has tiles of rows of its own, too.
pub fn pack_columns(precision: Precision, filter: &Filter) -> DirectWeights {
    let Filter { group_in, taps, columns, .. } = *filter;
    let ((lanes, _), channels) = (precision.tile(), precision.channels());
    let list = panels(precision, filter);
    let spanned = match list.first() {
        Some(Panel { spanning: true, depth, .. }) => *depth,
        _ => 0,
    };
    let word = |lane: usize, c: usize| (lane % lanes / group_in * group_in / channels + c) as u8;
    let lane_words: Vec<_> = (0..spanned).map(|c| std::array::from_fn(|lane| word(lane, c))).collect();
    let panels = PackedPanels::pack(precision, filter, list, |panel, values, constants| {
        panel.fill_scales(constants, filter, lanes);
        panel.fill(values, filter, panel.vectors * lanes, channels, &lane_words);
    });
    DirectWeights { panels, taps, columns, lane_words }
}

/// Computes all output pixels of a job.
pub fn convolve(weights: &DirectWeights, team: &ThreadTeam, sources: PixelSources, job: ConvJob) {
    let DirectWeights { panels: packed, taps, columns, .. } = weights;
    packed.check(&job);
    let row = match sources {
        PixelSources::Table(SourceTable { row: Some(row), .. }) if *columns > 1 => Some(*row),
        _ => None,
    };
    assert_eq!(row.is_some(), *columns > 1);
    assert!(row.is_none_or(|row| row.width > 0
        && matches!(row.stride, 1 | 2)
        && job.count.is_multiple_of(row.width)));
    sources.check(&job, *taps, packed.reach());
    let ConvJob { src, residual, epilogue, count, out, out_stride, ahead } = job;
    let out = &SharedSlice::new(bytes_mut(out));
    // A row's pixels read much the same source pixels, so it is not split.
    let unit = TILE.next_multiple_of(row.map_or(1, |row| row.width));
    let split = Split {
        panels_first: packed.out_channels > count,
        ..Split::between(count, unit, packed.list.len(), team.threads())
    };
    team.for_each(split.tasks(), |task| {
        let (pixels, panels) = split.get(task);
        let panels = &packed.list[panels];
        let steps = pixels.len().div_ceil(TILE) * taps * panels[0].depth.div_ceil(STEP);
        let plan = packed.prefetch_plan((task, split.tasks()), |task| split.get(task).1, steps, ahead);
        DirectTask { weights, src, sources, row, residual, epilogue, pixels, panels, out, out_stride, plan }
            .compute();
    });
}

/// The panels of a filter, whose weights are words of as many channels as a source word has.
fn panels(precision: Precision, filter: &Filter) -> Vec<Panel> {
    let Filter { groups, group_in, group_out, taps, columns, .. } = *filter;
    let ((lanes, _), channels) = (precision.tile(), precision.channels());
    let constants = if filter.scales.is_empty() { 1 } else { 2 };
    // The row kernels have registers for one vector.
    let vectors = if columns > 1 { 1 } else { 2 };
    let (mut weights, mut biases) = (0, 0);
    let place = |panel: ChannelPanel| {
        let ChannelPanel { src_channel, dst_channel, width, vectors, spanning } = panel;
        let src_word = src_channel / channels;
        let depth = match spanning {
            true => group_in.div_ceil(channels),
            false => (src_channel + group_in).div_ceil(channels) - src_word,
        };
        let (first, first_bias) = (weights, biases);
        weights += taps * depth * vectors * lanes;
        biases += constants * vectors * lanes;
        let (weights, bias) = (first..weights, first_bias..biases);
        Panel { weights, bias, src_word, dst_channel, width, vectors, depth, spanning }
    };
    channel_panels(lanes, vectors, groups, group_in, group_out).map(place).collect()
}

impl Panel {
    /// Writes the scales of integer sums after the biases.
    pub(super) fn fill_scales(&self, constants: &mut [f32], filter: &Filter, lanes: usize) {
        if !filter.scales.is_empty() {
            let scales = &filter.scales[self.dst_channel..][..self.width];
            constants[self.vectors * lanes..][..self.width].copy_from_slice(scales);
        }
    }

    /// Writes the panel's weights, in rows of `width` words.
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
                // A word may hold a channel of the neighbouring group.
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

impl DirectTask<'_> {
    fn compute(&self) {
        let mut wide = Scratch::default();
        for panel in self.panels {
            let values = self.weights.panels.widened(panel.weights.clone(), &mut wide);
            match self.row {
                Some(row) => self.rows(panel, values, row),
                None => self.pixels(panel, values),
            }
        }
    }

    fn pixels(&self, panel: &Panel, values: &[f32]) {
        let precision = self.weights.panels.precision;
        let (_, most) = precision.tile();
        for (tile, pixels) in strips(self.pixels.clone(), most) {
            let strip = Strip { task: self, panel, pixels, values };
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

    /// Chooses the tile size that covers a row in the fewest steps. Each instruction waits for the one before it on the same
    /// sum, so a tile of fewer than eight sums takes as long as one of eight.
    fn rows(&self, panel: &Panel, values: &[f32], row: RowLayout) {
        let precision = self.weights.panels.precision;
        let (_, tile) = precision.tile();
        let sizes = ROW_TILES.into_iter().filter(|&m| m <= row.width && has_row_tile(m, row.stride, tile));
        let steps = |m: &usize| row.width.div_ceil(*m) * (*m).max(8);
        let strip = Strip { task: self, panel, pixels: self.pixels.clone(), values };
        match sizes.min_by_key(steps) {
            Some(16) => strip.compute_rows::<16>(precision, row),
            Some(14) => strip.compute_rows::<14>(precision, row),
            Some(8) => strip.compute_rows::<8>(precision, row),
            Some(7) => strip.compute_rows::<7>(precision, row),
            Some(4) => strip.compute_rows::<4>(precision, row),
            Some(2) => strip.compute_rows::<2>(precision, row),
            _ => strip.compute_rows::<1>(precision, row),
        }
    }
}
