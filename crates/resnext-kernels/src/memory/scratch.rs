//! Scratch memory per thread.

use crate::simd::traits::Element;
use std::cell::RefCell;
use std::marker::PhantomData;

/// A buffer from the thread's own stock, returned to it on drop: it is neither cleared nor allocated again in each call.
#[derive(Debug)]
pub struct Scratch<T> {
    lines: Vec<Line>,
    element: PhantomData<T>,
}

/// A cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u64; 8]);

thread_local! {
    static STOCK: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

impl<T: Element> Scratch<T> {
    /// `len` elements of arbitrary values, aligned to a cache line.
    pub fn get(&mut self, len: usize) -> &mut [T] {
        let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.clear();
            self.lines.resize(lines, Line([0; 8]));
        }
        // SAFETY: there are that many bytes, aligned at least as elements are, and any bits are a valid float.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }
}

impl<T> Default for Scratch<T> {
    fn default() -> Self {
        Scratch { lines: STOCK.with_borrow_mut(Vec::pop).unwrap_or_default(), element: PhantomData }
    }
}

impl<T> Drop for Scratch<T> {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // A thread that is exiting has no stock any more.
        let _ = STOCK.try_with(|stock| stock.borrow_mut().push(lines));
    }
}
