//! Software prefetch in inference: weights of coming tasks and convolutions, pixels of the next tile, output lines.

use super::job::PixelView;
use super::packed::{Packed, PackedPanels, Stored};
use crate::memory::prefetch::{CacheLevel, prefetch, prefetch_to_write};
use std::cell::Cell;
use std::ops::Range;

/// How many convolutions ahead weights are prefetched.
pub const AHEAD: usize = 3;

impl PackedPanels {
    /// The cache lines that task `task` of `tasks` prefetches while it takes `steps` steps for each of its panels: first the
    /// panels of the task that its thread most likely runs next, then its share of the weights of the next convolutions.
    pub fn prefetch_plan(
        &self,
        (task, tasks): (usize, usize),
        panels: impl Fn(usize) -> Range<usize>,
        steps: usize,
        ahead: &[&Packed],
    ) -> PrefetchPlan {
        let (own, next) = (panels(task), panels((task + 1).min(tasks - 1)));
        let all = |packed: &Packed| {
            let weights = &packed.panels().weights;
            PrefetchRun::words(weights.as_ptr(), weights.len(), 1)
        };
        let lines: usize = ahead.iter().map(|packed| all(packed).lines).sum();
        let mut share = lines * task / tasks..lines * (task + 1) / tasks;
        let mut plan = [PrefetchRun::of(self, 0..0); AHEAD + 1];
        if next != own {
            let weights = self.list[next.start].weights.start..self.list[next.end - 1].weights.end;
            plan[0] = PrefetchRun::of(self, weights);
        }
        for (packed, fetch) in ahead.iter().zip(&mut plan[1..]) {
            let own = all(packed).lines;
            *fetch = all(packed).part(share.start.min(own)..share.end.min(own));
            share = share.start.saturating_sub(own)..share.end.saturating_sub(own);
        }
        PrefetchPlan::new(plan, steps * own.len())
    }
}

/// Cache lines of weights that a task prefetches, a few in each step of its own work: all at once, they would delay the
/// task's own reads.
pub struct PrefetchPlan([Cell<PrefetchRun>; AHEAD + 1]);

impl PrefetchPlan {
    fn new(plan: [PrefetchRun; AHEAD + 1], steps: usize) -> Self {
        let lines: usize = plan.iter().map(|fetch| fetch.lines).sum();
        let each = lines.div_ceil(steps.max(1));
        PrefetchPlan(plan.map(|fetch| Cell::new(PrefetchRun { each, ..fetch })))
    }

    /// Takes the lines that a tile of `steps` steps is to prefetch.
    #[inline(always)]
    pub fn take(&self, steps: usize) -> PrefetchRun {
        for left in &self.0 {
            let fetch = left.get();
            if fetch.lines > 0 {
                let lines = fetch.lines.min(steps * fetch.each);
                left.set(fetch.part(lines..fetch.lines));
                return PrefetchRun { lines, ..fetch };
            }
        }
        PrefetchRun { at: std::ptr::null(), lines: 0, each: 0 }
    }
}

/// Neighbouring cache lines to prefetch.
#[derive(Clone, Copy)]
pub struct PrefetchRun {
    at: *const f32,
    lines: usize,
    /// Lines per step.
    each: usize,
}

impl PrefetchRun {
    /// The lines of some weights.
    fn of(packed: &PackedPanels, weights: Range<usize>) -> Self {
        let per_word = if packed.stored == Stored::Words { 1 } else { 2 };
        let first = packed.weights.as_ptr().wrapping_add(weights.start / per_word);
        Self::words(first, weights.len() / per_word, 1)
    }

    /// The lines of `words` words, spread over `steps` steps.
    #[inline(always)]
    pub fn words(at: *const f32, words: usize, steps: usize) -> Self {
        let lines = words.div_ceil(16);
        PrefetchRun { at, lines, each: lines.div_ceil(steps) }
    }

    /// A range of these lines.
    #[inline(always)]
    fn part(self, lines: Range<usize>) -> Self {
        PrefetchRun { at: self.at.wrapping_add(lines.start * 16), lines: lines.len(), ..self }
    }

    /// Prefetches the lines of `steps` steps. Always inlined: a call would have to save all vector registers.
    #[inline(always)]
    pub fn step(&mut self, steps: usize, into: CacheLevel) {
        let now = (steps * self.each).min(self.lines);
        for _ in 0..now {
            prefetch(self.at, into);
            self.at = self.at.wrapping_add(16);
        }
        self.lines -= now;
    }
}

/// Where some channels of neighbouring pixels will be written, and the residual that is added to them.
pub struct Outputs {
    out: *const f32,
    out_stride: usize,
    residual: Option<*const f32>,
    residual_stride: usize,
    pixels: usize,
}

impl Outputs {
    /// `pixels` pixels from `pixel` on, from word `word` of each on.
    #[inline(always)]
    pub fn new(
        (out, out_stride): (*const f32, usize),
        residual: Option<PixelView>,
        (pixel, word): (usize, usize),
        pixels: usize,
    ) -> Self {
        Outputs {
            out: out.wrapping_add(pixel * out_stride + word),
            out_stride,
            residual: residual.map(|r| r.data.as_ptr().wrapping_add(pixel * r.stride + word)),
            residual_stride: residual.map_or(0, |r| r.stride),
            pixels,
        }
    }

    /// Prefetches `words` words of each of the next `pixels` pixels, or of those that are left.
    #[inline(always)]
    pub fn prefetch(&mut self, pixels: usize, words: usize) {
        let pixels = pixels.min(self.pixels);
        self.pixels -= pixels;
        for _ in 0..pixels {
            for word in (0..words).step_by(16) {
                prefetch_to_write(self.out.wrapping_add(word));
            }
            self.out = self.out.wrapping_add(self.out_stride);
        }
        if let Some(residual) = &mut self.residual {
            for _ in 0..pixels {
                for word in (0..words).step_by(16) {
                    prefetch(residual.wrapping_add(word), CacheLevel::First);
                }
                *residual = residual.wrapping_add(self.residual_stride);
            }
        }
    }
}
