//! Convolution for inference, over packed weights: what each output pixel reads, and who computes it.

use super::packed::{Packed, Panel};
use super::shared::SharedMut;
use super::tiles::Strip;
use crate::crew::Crew;
use std::cell::Cell;
use std::ops::Range;

/// Where pixels lie: `pixel · stride` words from the start.
#[derive(Clone, Copy)]
pub(crate) struct Pixels<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
}

/// What each output pixel reads.
#[derive(Clone, Copy)]
pub(crate) enum Sources<'a> {
    /// The source pixel of the same number.
    Same,
    /// Looked up.
    Table(&'a SourceTable),
}

/// The places, in words from the start, of the source pixels that each output pixel reads.
#[derive(Debug)]
pub(crate) struct SourceTable {
    /// `[output pixel][tap]`
    pub(super) offsets: Vec<u32>,
    /// The largest of them.
    farthest: usize,
    row: Option<Row>,
}

/// Rows of output pixels that lie `stride` source pixels apart, with taps that are neighbours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

impl SourceTable {
    pub(crate) fn new(offsets: Vec<u32>, row: Option<Row>) -> Self {
        let farthest = offsets.iter().copied().max().unwrap_or(0) as usize;
        SourceTable { offsets, farthest, row }
    }
}

/// One convolution: `out = conv(src) + bias`, `+ residual` and ReLU where asked for.
pub(crate) struct Job<'a> {
    pub(crate) src: Pixels<'a>,
    pub(crate) sources: Sources<'a>,
    pub(crate) residual: Option<Pixels<'a>>,
    pub(crate) relu: bool,
    /// Output pixels.
    pub(crate) count: usize,
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
    /// Weights that the next convolutions read, to be fetched from memory while this one computes.
    /// At most [`AHEAD`].
    pub(crate) ahead: &'a [&'a Packed],
}

impl Packed {
    /// Computes all output pixels of a job.
    pub(crate) fn run(&self, crew: &Crew, job: Job) {
        let Job { src, sources, residual, relu, count, out, out_stride, ahead } = job;
        let channels = self.words.channels();
        let holds = |len: usize, stride: usize| {
            count == 0 || len >= (count - 1) * stride + self.out_channels.div_ceil(channels)
        };
        assert!(holds(out.len(), out_stride) && residual.is_none_or(|r| holds(r.data.len(), r.stride)));
        let row = match sources {
            Sources::Table(SourceTable { row: Some(row), .. }) if self.columns > 1 => *row,
            _ => Row { width: usize::MAX, stride: 0 },
        };
        assert!(row.width > 0 && (self.columns == 1 || row.stride > 0));
        let last = match sources {
            Sources::Same => count.saturating_sub(1) * src.stride,
            Sources::Table(table) => {
                assert_eq!(table.offsets.len(), count * self.taps);
                table.farthest
            }
        };
        assert!(count == 0 || src.data.len() >= last + self.reach());
        // SAFETY: f32 has no invalid bits and a larger alignment than u16.
        let (_, out, _) = unsafe { out.align_to_mut::<u16>() };
        let out = &SharedMut::new(out);
        let split =
            Split::new(count, if row.stride == 0 { 1 } else { row.width }, self.panels.len(), crew.threads());
        let all = |packed: &Packed| Fetch::of(packed, 0..packed.weights.len());
        let lines: usize = ahead.iter().map(|packed| all(packed).lines).sum();
        crew.for_each(split.tasks(), |task| {
            let (pixels, panels) = split.get(task);
            let tiles = pixels.len().div_ceil(TILE) * panels.len() * self.taps;
            let steps = tiles * self.panels[panels.start].depth.div_ceil(STEP);
            // A share of what the next convolutions want, after what this thread most likely wants next.
            let mut share = lines * task / split.tasks()..lines * (task + 1) / split.tasks();
            let next = split.get((task + 1).min(split.tasks() - 1)).1;
            let mut fetches = [Fetch::of(self, 0..0); AHEAD + 1];
            if next != panels {
                fetches[0] =
                    Fetch::of(self, self.panels[next.start].weights..self.panels[next.end - 1].weights);
            }
            for (packed, fetch) in ahead.iter().zip(&mut fetches[1..]) {
                let own = all(packed).lines;
                *fetch = all(packed).part(share.start.min(own)..share.end.min(own));
                share = share.start.saturating_sub(own)..share.end.saturating_sub(own);
            }
            let fetches = Fetches::new(fetches, steps);
            let panels = &self.panels[panels];
            Task {
                packed: self,
                src,
                sources,
                row,
                residual,
                relu,
                pixels,
                panels,
                out,
                out_stride,
                fetches,
            }
            .run();
        });
    }
}

/// Pixels of the largest tile.
pub(super) const TILE: usize = 14;

/// Source words between two fetches of what is wanted next.
pub(super) const STEP: usize = 16;

/// Pixels × panels, split between threads: blocks of pixels, whole tiles each, that stay in a core's cache
/// while panels pass over them, and ranges of panels where there are few pixels. How the work is split never
/// changes a result: every output element is computed by one task.
struct Split {
    pixels: usize,
    blocks: usize,
    panels: usize,
    parts: usize,
}

impl Split {
    /// `row` pixels read much the same pixels as the next `row`.
    fn new(pixels: usize, row: usize, panels: usize, threads: usize) -> Self {
        let least = 7 * TILE.max(row.min(pixels));
        let blocks = (pixels / least).clamp(1, 16 * threads);
        let parts = (16 * threads / blocks).clamp(1, panels);
        Split { pixels, blocks, panels, parts }
    }

    fn tasks(&self) -> usize {
        self.blocks * self.parts
    }

    fn get(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (block, part) = (task / self.parts, task % self.parts);
        let tiles = self.pixels.div_ceil(TILE);
        let pixel = |block: usize| (tiles * block / self.blocks * TILE).min(self.pixels);
        let panel = |part: usize| self.panels * part / self.parts;
        (pixel(block)..pixel(block + 1), panel(part)..panel(part + 1))
    }
}

/// How many convolutions ahead weights are fetched for.
pub(crate) const AHEAD: usize = 3;

/// Cache lines of weights that a task fetches, a few each step of its own work: asked for all at once, they
/// would hold up its own reads.
pub(super) struct Fetches {
    left: Cell<[Fetch; AHEAD + 1]>,
    each: usize,
}

impl Fetches {
    fn new(fetches: [Fetch; AHEAD + 1], steps: usize) -> Self {
        let lines: usize = fetches.iter().map(|fetch| fetch.lines).sum();
        Fetches { left: Cell::new(fetches), each: lines.div_ceil(steps.max(1)) }
    }

    /// Those that a tile of `steps` steps is to fetch.
    #[inline(always)]
    pub(super) fn take(&self, steps: usize) -> Fetch {
        let mut left = self.left.get();
        let mut taken = Fetch { at: std::ptr::null(), lines: 0, each: self.each };
        if let Some(fetch) = left.iter_mut().find(|fetch| fetch.lines > 0) {
            let lines = fetch.lines.min(steps * self.each);
            taken = Fetch { lines, each: self.each, ..*fetch };
            *fetch = fetch.part(lines..fetch.lines);
            self.left.set(left);
        }
        taken
    }
}

/// Neighbouring cache lines to fetch.
#[derive(Clone, Copy)]
pub(super) struct Fetch {
    at: *const f32,
    lines: usize,
    each: usize,
}

impl Fetch {
    /// Those of some of the weights.
    fn of(packed: &Packed, weights: Range<usize>) -> Self {
        let at = packed.weights.as_ptr().wrapping_add(weights.start);
        Fetch { at, lines: weights.len().div_ceil(16), each: 0 }
    }

    /// Some of these.
    fn part(self, lines: Range<usize>) -> Self {
        Fetch { at: self.at.wrapping_add(lines.start * 16), lines: lines.len(), ..self }
    }

    /// Asks for a few. No call, before which all vector registers would have to be saved.
    #[inline(always)]
    pub(super) fn step(&mut self) {
        let now = self.each.min(self.lines);
        for _ in 0..now {
            prefetch(self.at);
            self.at = self.at.wrapping_add(16);
        }
        self.lines -= now;
    }
}

/// Asks for a cache line.
#[inline(always)]
pub(super) fn prefetch(word: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults, wherever it points to.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(word.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = word;
}

/// Some pixels times some panels, on one thread.
pub(super) struct Task<'a> {
    pub(super) packed: &'a Packed,
    pub(super) src: Pixels<'a>,
    pub(super) sources: Sources<'a>,
    row: Row,
    pub(super) residual: Option<Pixels<'a>>,
    pub(super) relu: bool,
    pixels: Range<usize>,
    panels: &'a [Panel],
    pub(super) out: &'a SharedMut<'a, u16>,
    /// In words.
    pub(super) out_stride: usize,
    pub(super) fetches: Fetches,
}

impl Task<'_> {
    fn run(&self) {
        let words = self.packed.words;
        let (_, tile) = words.tile();
        let Row { width, stride } = self.row;
        for panel in self.panels {
            let mut start = self.pixels.start;
            while start < self.pixels.end {
                let row_end = (start / width).saturating_add(1).saturating_mul(width);
                let rest = self.pixels.end.min(row_end) - start;
                // The largest tiles first; smaller ones take the rest.
                let fits = |&pixels: &usize| pixels <= rest && (pixels <= tile || stride > 0 && pixels == 7);
                let pixels = [14, 7, 6, 4, 2].into_iter().find(fits).unwrap_or(1);
                let end = start + rest / pixels * pixels;
                let strip = Strip { task: self, panel, pixels: start..end };
                match pixels {
                    14 => strip.run::<14>(words, stride),
                    7 => strip.run::<7>(words, stride),
                    6 => strip.run::<6>(words, stride),
                    4 => strip.run::<4>(words, stride),
                    2 => strip.run::<2>(words, stride),
                    _ => strip.run::<1>(words, stride),
                }
                start = end;
            }
        }
    }
}
