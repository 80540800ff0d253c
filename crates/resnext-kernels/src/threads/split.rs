//! How the pixels and panels of a convolution are split into tasks.

use std::ops::Range;

/// Pixels × panels, split into tasks: blocks of pixels that stay in a core's cache while panels pass over them, and
/// ranges of panels where there are few pixels. How the work is split never changes a result: every output element is
/// computed by one task.
pub struct Split {
    pub pixels: usize,
    /// The number of neighbouring pixels that stay in one task.
    pub unit: usize,
    /// The number of blocks of pixels.
    pub blocks: usize,
    pub panels: usize,
    /// The number of ranges of panels.
    pub parts: usize,
    /// Whether neighbouring tasks, which run on one thread, share panels rather than pixels. The thread then reads only its
    /// part of the weights, which is better where those are most of what is read, and of a group only the channels that it
    /// has written itself.
    pub panels_first: bool,
}

impl Split {
    /// Splits so that every thread has several tasks, of seven units of pixels or more where there are that many.
    pub fn between(pixels: usize, unit: usize, panels: usize, threads: usize) -> Self {
        let blocks = (pixels / (7 * unit)).clamp(1, 16 * threads);
        let parts = (16 * threads / blocks).clamp(1, panels);
        Split { pixels, unit, blocks, panels, parts, panels_first: false }
    }

    /// The number of tasks.
    pub fn tasks(&self) -> usize {
        self.blocks * self.parts
    }

    /// A task's pixels and panels.
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

    /// Splits into blocks of whole tiles of `tile` pixels, whose `pixel_bytes` of source per pixel fill at most half of a
    /// small second-level cache, and into ranges of panels where there are too few pixels for all threads.
    pub fn by_cache(pixels: usize, tile: usize, pixel_bytes: usize, panels: usize, threads: usize) -> Self {
        const BLOCK_BYTES: usize = 256 << 10;
        let cached = (BLOCK_BYTES / pixel_bytes.max(1)).max(tile) / tile * tile;
        let shared = pixels.div_ceil(4 * threads).div_ceil(tile) * tile;
        let unit = cached.min(shared).clamp(tile, 4096.max(tile));
        let blocks = pixels.div_ceil(unit);
        let parts = if blocks == 0 { 1 } else { (4 * threads).div_ceil(blocks).clamp(1, panels.max(1)) };
        Split { pixels, unit, blocks, panels, parts, panels_first: false }
    }
}
