//! How work is split between threads, and the one way threads write into a common output.

use super::simd::Element;
use super::stored::Stored;
use crate::crew::Crew;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice of which several threads write disjoint parts.
pub struct SharedMut<'a, T> {
    pointer: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose callers promise disjoint parts.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedMut { pointer: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// Where it begins.
    pub fn as_ptr(&self) -> *const T {
        self.pointer
    }

    /// Where `len` elements from `start` on begin, for writing: they need not hold values yet.
    pub fn pointer(&self, start: usize, len: usize) -> *mut T {
        assert!(start <= self.len && len <= self.len - start, "{len} elements from {start} of {}", self.len);
        self.pointer.wrapping_add(start)
    }

    /// `len` elements from `start` on.
    ///
    /// # Safety
    /// No two slices alive at the same time overlap, and their elements hold values.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "{len} elements from {start} of {}", self.len);
        // SAFETY: inside the slice this was made of, and the caller keeps slices disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), len) }
    }
}

/// A vector of `len` elements, which `write` writes, with what it returns. Sparing the zeros that are overwritten
/// at once saves a pass over memory.
///
/// # Safety
/// `write` writes every element. Tests would see it: where assertions are on, what is left out is NaN.
pub unsafe fn written<D: Stored, R>(len: usize, write: impl FnOnce(&SharedMut<D>) -> R) -> (Vec<D>, R) {
    let mut out: Vec<D> = Vec::with_capacity(len);
    if cfg!(debug_assertions) {
        out.resize(len, D::rounded(Element::of_f64(f64::NAN)));
    }
    let shared = SharedMut { pointer: out.as_mut_ptr(), len, lifetime: PhantomData };
    let result = write(&shared);
    // SAFETY: the capacity is there, and the caller promises that all was written.
    unsafe { out.set_len(len) };
    (out, result)
}

/// A vector of `count` chunks of `len` elements, zeros until `write` is given the number of each and the chunk, on as many
/// threads as [`map`]. Cleared by the thread that writes it, a chunk need not be taken from another core.
pub fn written_chunks<D: Stored>(count: usize, len: usize, write: impl Fn(usize, &mut [D]) + Sync) -> Vec<D> {
    let task = |out: &SharedMut<D>, i: usize| {
        let chunk = out.pointer(i * len, len);
        // SAFETY: chunks do not overlap, and hold values once they are cleared.
        write(i, unsafe {
            (0..len).for_each(|k| chunk.add(k).write(D::default()));
            out.slice(i * len, len)
        });
    };
    // SAFETY: every chunk is cleared.
    unsafe { written(count * len, |out| map(count, |i| task(out, i))).0 }
}

/// What `task` makes of each number below `count`, in order; on this thread and those of the pool.
pub fn map<R: Send>(count: usize, task: impl Fn(usize) -> R + Sync) -> Vec<R> {
    if count < 2 {
        return (0..count).map(task).collect();
    }
    Crew::run(|crew| crew.apart(&mut vec![(); count], |i, ()| task(i)))
}

/// The sum of partial sums of one length, added in their order.
pub fn totals<T: Element>(parts: &[Vec<T>]) -> Vec<T> {
    const CHUNK: usize = 1 << 12;
    let Some((first, rest)) = parts.split_first() else { return Vec::new() };
    let mut total = first.clone();
    total.par_chunks_mut(CHUNK).enumerate().for_each(|(i, total)| {
        for part in rest {
            total.iter_mut().zip(&part[i * CHUNK..]).for_each(|(total, &value)| *total += value);
        }
    });
    total
}

/// Whether vectors of `lanes` hold several whole groups: then a permute brings a lane its group's
/// channel, where wider groups broadcast it. Forward, its input gradient and the weight's agree on this.
pub fn spans_groups(lanes: usize, groups: usize, group_src: usize, group_dst: usize) -> bool {
    group_src == group_dst
        && group_dst < lanes
        && lanes.is_multiple_of(group_dst)
        && (groups * group_dst).is_multiple_of(lanes)
}

/// Splits pixels × panels into tasks: blocks of pixels that stay in a core's cache while every
/// panel passes over them, and, where there are few pixels, ranges of panels as well.
/// How the work is split never changes a result: every output element is computed by one task.
pub struct SplitTasks {
    pixels: usize,
    block: usize,
    blocks: usize,
    panels: usize,
    panel_parts: usize,
}

impl SplitTasks {
    /// Source bytes a task should touch: half of a small second-level cache.
    const BLOCK_BYTES: usize = 256 << 10;

    pub fn new(pixels: usize, tile: usize, row_bytes: usize, panels: usize) -> Self {
        let threads = rayon::current_num_threads();
        let cached = (Self::BLOCK_BYTES / row_bytes.max(1)).max(tile) / tile * tile;
        let shared = pixels.div_ceil(4 * threads).div_ceil(tile) * tile;
        let block = cached.min(shared).clamp(tile, 4096.max(tile));
        let blocks = pixels.div_ceil(block);
        let panel_parts =
            if blocks == 0 { 1 } else { (4 * threads).div_ceil(blocks).clamp(1, panels.max(1)) };
        SplitTasks { pixels, block, blocks, panels, panel_parts }
    }

    pub fn count(&self) -> usize {
        self.blocks * self.panel_parts
    }

    /// The first pixel, the number of pixels and the panels of a task.
    pub fn get(&self, task: usize) -> (usize, usize, Range<usize>) {
        let (block, part) = (task / self.panel_parts, task % self.panel_parts);
        let first = block * self.block;
        let bound = |part: usize| self.panels * part / self.panel_parts;
        (first, self.block.min(self.pixels - first), bound(part)..bound(part + 1))
    }
}
