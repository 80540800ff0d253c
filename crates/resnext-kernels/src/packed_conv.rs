//! Convolution for inference, over packed weights: what each output pixel reads, and who computes it.

use super::fetch::Fetches;
use super::packed::{Form, Packed, Panel};
use super::paired;
use super::shared::SharedMut;
use super::tiles::Strip;
use super::winograd::{self, Tiling};
use super::words::bytes_mut;
use crate::crew::Crew;
use std::ops::Range;

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
}

/// The places, in words from the start, of the source pixels that each output pixel reads.
#[derive(Debug)]
pub struct SourceTable {
    /// `[output pixel][tap]`
    pub(super) offsets: Vec<u32>,
    /// The largest of them.
    farthest: usize,
    row: Option<Row>,
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
    /// At most [`AHEAD`](super::fetch::AHEAD).
    pub ahead: &'a [&'a Packed],
}

impl Packed {
    /// Computes all output pixels of a job.
    pub fn run(&self, crew: &Crew, sources: Sources, job: Job) {
        self.check(&job);
        let Job { src, residual, count, out_stride, .. } = job;
        let row = match sources {
            Sources::Table(SourceTable { row: Some(row), .. }) if self.columns > 1 => Some(*row),
            _ => None,
        };
        assert_eq!(row.is_some(), self.columns > 1);
        assert!(row.is_none_or(|row| row.width > 0
            && matches!(row.stride, 1 | 2)
            && count.is_multiple_of(row.width)));
        let last = match sources {
            Sources::Same => count.saturating_sub(1) * src.stride,
            Sources::Table(table) => {
                assert_eq!(table.offsets.len(), count * self.taps);
                table.farthest
            }
        };
        assert!(self.form != Form::Tiles && (count == 0 || src.data.len() >= last + self.reach()));
        if self.form == Form::Paired {
            return paired::run(self, crew, sources, job);
        }
        let Job { epilogue, out, ahead, .. } = job;
        let out = &SharedMut::new(bytes_mut(out));
        let split = Split {
            panels_first: self.out_channels > count,
            ..Split::new(count, row.map_or(1, |row| row.width), self.panels.len(), crew.threads())
        };
        crew.for_each(split.tasks(), |task| {
            let (pixels, panels) = split.get(task);
            let panels = &self.panels[panels];
            let steps = pixels.len().div_ceil(TILE) * self.taps * panels[0].depth.div_ceil(STEP);
            let fetches = self.fetches((task, split.tasks()), |task| split.get(task).1, steps, ahead);
            Task {
                packed: self,
                src,
                sources,
                row,
                residual,
                epilogue,
                pixels,
                panels,
                out,
                out_stride,
                fetches,
            }
            .run();
        });
    }

    /// The same for weights that are packed for tiles.
    pub fn run_tiles(&self, crew: &Crew, tiling: &Tiling, job: Job) {
        winograd::run(self, crew, tiling, job);
    }

    /// Asserts that there is room for the output, and a residual as large.
    pub(super) fn check(&self, job: &Job) {
        let channels = self.words.written();
        let holds = |len: usize, stride: usize| {
            job.count == 0 || len >= (job.count - 1) * stride + self.out_channels.div_ceil(channels)
        };
        assert!(holds(job.out.len(), job.out_stride));
        assert!(job.residual.is_none_or(|r| holds(r.data.len(), r.stride)));
    }
}

/// Pixels of the largest tile.
pub(super) const TILE: usize = 14;

/// Pixels as strips of whole tiles, with the tile's size: those of the largest, up to `most`, come first, and smaller ones
/// take the rest.
pub(super) fn strips(pixels: Range<usize>, most: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut start = pixels.start;
    std::iter::from_fn(move || {
        let rest = pixels.end - start;
        let tile = [TILE, 7, 6, 4, 2, 1].into_iter().find(|&tile| tile <= rest.min(most))?;
        let strip = start..start + rest / tile * tile;
        start = strip.end;
        Some((tile, strip))
    })
}

/// Source words between two fetches of what is wanted next.
pub(super) const STEP: usize = 16;

/// Pixels × panels, split between threads: blocks of pixels, whole tiles and rows each, that stay in a core's cache
/// while panels pass over them, and ranges of panels where there are few pixels. How the work is split never
/// changes a result: every output element is computed by one task.
pub(super) struct Split {
    pixels: usize,
    /// Pixels that are not parted.
    unit: usize,
    blocks: usize,
    panels: usize,
    parts: usize,
    /// Whether a thread's tasks, which are neighbours, share panels rather than pixels: so that it reads only its part
    /// of the weights, where they are the larger part of all that is read; of groups, only those that it has written.
    panels_first: bool,
}

impl Split {
    /// `row` pixels are not parted, for they read much the same pixels.
    pub(super) fn new(pixels: usize, row: usize, panels: usize, threads: usize) -> Self {
        Self::of_units(pixels, TILE.next_multiple_of(row), panels, threads)
    }

    /// `unit` pixels are not parted.
    pub(super) fn of_units(pixels: usize, unit: usize, panels: usize, threads: usize) -> Self {
        let blocks = (pixels / (7 * unit)).clamp(1, 16 * threads);
        let parts = (16 * threads / blocks).clamp(1, panels);
        Split { pixels, unit, blocks, panels, parts, panels_first: false }
    }

    pub(super) fn tasks(&self) -> usize {
        self.blocks * self.parts
    }

    pub(super) fn get(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (block, part) = match self.panels_first {
            true => (task % self.blocks, task / self.blocks),
            false => (task / self.parts, task % self.parts),
        };
        let units = self.pixels.div_ceil(self.unit);
        let pixel = |block: usize| (units * block / self.blocks * self.unit).min(self.pixels);
        let panel = |part: usize| self.panels * part / self.parts;
        (pixel(block)..pixel(block + 1), panel(part)..panel(part + 1))
    }
}

/// Some pixels times some panels, on one thread.
pub(super) struct Task<'a> {
    pub(super) packed: &'a Packed,
    pub(super) src: Pixels<'a>,
    pub(super) sources: Sources<'a>,
    row: Option<Row>,
    pub(super) residual: Option<Pixels<'a>>,
    pub(super) epilogue: Epilogue,
    pixels: Range<usize>,
    panels: &'a [Panel],
    pub(super) out: &'a SharedMut<'a, u8>,
    /// In words.
    pub(super) out_stride: usize,
    pub(super) fetches: Fetches,
}

impl Task<'_> {
    fn run(&self) {
        for panel in self.panels {
            match self.row {
                Some(row) => self.rows(panel, row),
                None => self.pixels(panel),
            }
        }
    }

    fn pixels(&self, panel: &Panel) {
        let words = self.packed.words;
        let (_, most) = words.tile();
        for (tile, pixels) in strips(self.pixels.clone(), most) {
            let strip = Strip { task: self, panel, pixels };
            match tile {
                TILE => strip.run::<TILE>(words),
                7 => strip.run::<7>(words),
                6 => strip.run::<6>(words),
                4 => strip.run::<4>(words),
                2 => strip.run::<2>(words),
                _ => strip.run::<1>(words),
            }
        }
    }

    /// Of the tiles that registers have room for, those that cover a row in the fewest steps: an instruction waits for
    /// the one before on the same sum, so that fewer than eight sums take as long as eight. Two short rows go together.
    fn rows(&self, panel: &Panel, row: Row) {
        let words = self.packed.words;
        let most = match words.tile() {
            (_, tile @ ..6) => tile,
            (_, 6..14) => 8,
            _ => 16,
        };
        let sizes = [16, 14, 8, 7, 4, 2].into_iter().filter(|&m| m <= row.width.min(most));
        let steps = |m: &usize| row.width.div_ceil(*m) * (*m).max(8);
        let strip = Strip { task: self, panel, pixels: self.pixels.clone() };
        let both = most == 16 && row.stride == 1;
        match (sizes.min_by_key(steps), both) {
            (Some(16), _) => strip.run_rows::<16, 1>(words, row),
            (Some(14), _) => strip.run_rows::<14, 1>(words, row),
            (Some(8), true) => strip.run_rows::<8, 2>(words, row),
            (Some(7), true) => strip.run_rows::<7, 2>(words, row),
            (Some(8), _) => strip.run_rows::<8, 1>(words, row),
            (Some(7), _) => strip.run_rows::<7, 1>(words, row),
            (Some(4), true) => strip.run_rows::<4, 2>(words, row),
            (Some(4), _) => strip.run_rows::<4, 1>(words, row),
            (Some(_), _) => strip.run_rows::<2, 1>(words, row),
            (None, _) => strip.run_rows::<1, 1>(words, row),
        }
    }
}
