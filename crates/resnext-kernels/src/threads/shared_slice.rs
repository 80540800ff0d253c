//! The one way threads write into a common output.

use crate::simd::traits::{Element, Storage};
use std::marker::PhantomData;

/// A mutable slice of which several threads write disjoint parts.
pub struct SharedSlice<'a, T> {
    pointer: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose callers promise disjoint parts.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedSlice { pointer: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
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
pub unsafe fn write_vec<D: Storage, R>(len: usize, write: impl FnOnce(&SharedSlice<D>) -> R) -> (Vec<D>, R) {
    let mut out: Vec<D> = Vec::with_capacity(len);
    if cfg!(debug_assertions) {
        out.resize(len, D::narrow(Element::of_f64(f64::NAN)));
    }
    let shared = SharedSlice { pointer: out.as_mut_ptr(), len, lifetime: PhantomData };
    let result = write(&shared);
    // SAFETY: the capacity is there, and the caller promises that all was written.
    unsafe { out.set_len(len) };
    (out, result)
}
