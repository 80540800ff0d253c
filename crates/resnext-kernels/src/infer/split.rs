//! How a convolution's pixels and panels are split between threads, and a task's pixels into tiles.

use std::ops::Range;

/// Pixels of the largest tile.
pub const TILE: usize = 14;

/// Pixels as strips of whole tiles, with the tile's size: those of the largest, up to `most`, come first, and smaller ones
/// take the rest.
pub fn strips(pixels: Range<usize>, most: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut start = pixels.start;
    std::iter::from_fn(move || {
        let rest = pixels.end - start;
        let tile = [TILE, 7, 6, 4, 2, 1].into_iter().find(|&tile| tile <= rest.min(most))?;
        let strip = start..start + rest / tile * tile;
        start = strip.end;
        Some((tile, strip))
    })
}

/// Source words between two plan of what is wanted next.
pub const STEP: usize = 16;

/// Pixels × panels, split between threads: blocks of pixels, whole tiles and rows each, that stay in a core's cache
/// while panels pass over them, and ranges of panels where there are few pixels. How the work is split never
/// changes a result: every output element is computed by one task.
pub struct Split {
    pub pixels: usize,
    /// Pixels that are not parted.
    pub unit: usize,
    pub blocks: usize,
    pub panels: usize,
    pub parts: usize,
    /// Whether a thread's tasks, which are neighbours, share panels rather than pixels: so that it reads only its part
    /// of the weights, where they are the larger part of all that is read; of groups, only those that it has written.
    pub panels_first: bool,
}

impl Split {
    /// `row` pixels are not parted, for they read much the same pixels.
    pub fn new(pixels: usize, row: usize, panels: usize, threads: usize) -> Self {
        Self::of_units(pixels, TILE.next_multiple_of(row), panels, threads)
    }

    /// `unit` pixels are not parted.
    pub fn of_units(pixels: usize, unit: usize, panels: usize, threads: usize) -> Self {
        let blocks = (pixels / (7 * unit)).clamp(1, 16 * threads);
        let parts = (16 * threads / blocks).clamp(1, panels);
        Split { pixels, unit, blocks, panels, parts, panels_first: false }
    }

    pub fn tasks(&self) -> usize {
        self.blocks * self.parts
    }

    pub fn get(&self, task: usize) -> (Range<usize>, Range<usize>) {
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
