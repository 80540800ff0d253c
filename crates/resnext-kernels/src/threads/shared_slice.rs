//! Outputs that several threads write: the one place where that is `unsafe`.

use crate::simd::traits::{Element, Storage};
use std::marker::PhantomData;

/// A mutable slice whose disjoint parts several threads write.
pub struct SharedSlice<'a, T> {
    pointer: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose callers promise disjoint parts.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    /// Shares `slice` for as long as it is borrowed.
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedSlice { pointer: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// A pointer to the first element.
    pub fn as_ptr(&self) -> *const T {
        self.pointer
    }

    /// A pointer to `len` elements from `start` on, which need not be initialised yet.
    ///
    /// # Panics
    /// If the slice has no such elements.
    pub fn pointer(&self, start: usize, len: usize) -> *mut T {
        assert!(start <= self.len && len <= self.len - start, "{len} elements from {start} of {}", self.len);
        self.pointer.wrapping_add(start)
    }

    /// The `len` elements from `start` on.
    ///
    /// # Panics
    /// If the slice has no such elements.
    ///
    /// # Safety
    /// No two slices that are alive at the same time overlap, and their elements are initialised.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "{len} elements from {start} of {}", self.len);
        // SAFETY: inside the slice this was made of, and the caller keeps slices disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), len) }
    }
}

/// Returns a vector of `len` elements, which `write` initialises, and the result of `write`. This saves a pass over
/// memory that would only write zeros.
///
/// # Safety
/// `write` initialises every element. With debug assertions, elements that it leaves out are NaN.
pub unsafe fn write_vec<D: Storage, R>(len: usize, write: impl FnOnce(&SharedSlice<D>) -> R) -> (Vec<D>, R) {
    let mut out: Vec<D> = Vec::with_capacity(len);
    if cfg!(debug_assertions) {
        out.resize(len, D::narrow(Element::of_f64(f64::NAN)));
    }
    let shared = SharedSlice { pointer: out.as_mut_ptr(), len, lifetime: PhantomData };
    let result = write(&shared);
    // SAFETY: the capacity suffices, and the caller promises that every element is initialised.
    unsafe { out.set_len(len) };
    (out, result)
}
