//! Buffers aligned to cache lines, so that no vector straddles two.

use crate::simd::traits::MAX_LANES;
use rayon::prelude::*;
use std::alloc::Layout;
use std::fmt::{Debug, Formatter};
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A zero-initialised `[f32]` aligned to 64 bytes.
///
/// Large buffers ask the system for huge pages: weights are read once per forward pass, and with small pages the
/// address translation would take as long as the reads.
pub struct AlignedBuffer {
    data: NonNull<f32>,
    len: usize,
}

const PAGE: usize = 2 << 20;

/// The stride, in words of 32 bits, for rows of `words` words. It is padded where it would be a multiple of 512 bytes,
/// as such rows compete for a few sets of the cache.
pub fn padded_stride(words: usize) -> usize {
    if words.is_multiple_of(128) { words + MAX_LANES } else { words }
}

impl AlignedBuffer {
    /// Allocates `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self::fresh(len, |values| values.fill(MaybeUninit::new(0.0)))
    }

    /// Allocates `len` zeros, written by all threads of the current rayon pool: the system clears a page when it is
    /// first written, and many threads do that faster. Must not be called within a [`ThreadTeam`](crate::ThreadTeam),
    /// which holds the pool's threads.
    pub fn zeros_parallel(len: usize) -> Self {
        Self::fresh(len, |values| {
            let parts = values.par_chunks_mut(PAGE / size_of::<f32>());
            parts.for_each(|part| part.fill(MaybeUninit::new(0.0)));
        })
    }

    /// Grows the buffer to at least `len` elements. If it grows, all of its elements become zeros.
    pub fn grow(&mut self, len: usize) {
        if self.len < len {
            *self = Self::zeros(len);
        }
    }

    /// Allocates; `fill` initialises every element.
    fn fresh(len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Self {
        if len == 0 {
            return AlignedBuffer::default();
        }
        let layout = Self::layout(len);
        // SAFETY: the layout is not empty.
        let data = unsafe { std::alloc::alloc(layout) }.cast::<f32>();
        let Some(data) = NonNull::new(data) else { std::alloc::handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if layout.align() == PAGE {
            // SAFETY: advice on pages that were just allocated, which it does not change.
            unsafe { libc::madvise(data.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        // SAFETY: the allocation is that long, and nobody else's.
        fill(unsafe { std::slice::from_raw_parts_mut(data.as_ptr().cast(), len) });
        AlignedBuffer { data, len }
    }

    fn layout(len: usize) -> Layout {
        let bytes = len * size_of::<f32>();
        let align = if bytes < PAGE { 64 } else { PAGE };
        // The same error as for a `Vec` of that length.
        Layout::from_size_align(bytes, align).unwrap_or_else(|_| panic!("capacity overflow"))
    }
}

impl Default for AlignedBuffer {
    fn default() -> Self {
        AlignedBuffer { data: NonNull::dangling(), len: 0 }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `fresh` with this layout.
            unsafe { std::alloc::dealloc(self.data.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

impl Clone for AlignedBuffer {
    fn clone(&self) -> Self {
        let mut buffer = AlignedBuffer::zeros(self.len);
        buffer.copy_from_slice(self);
        buffer
    }
}

impl Debug for AlignedBuffer {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer({})", self.len)
    }
}

// SAFETY: owns its memory, as a `Vec<f32>` does.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuffer {}

impl Deref for AlignedBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `len` f32, zeros at first, or a dangling pointer to none.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}
