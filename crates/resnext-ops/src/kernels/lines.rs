//! Buffers that begin at a cache line, so that no vector lies across two.

use std::ops::{Deref, DerefMut};

/// A cache line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Zeros to begin with; a slice of f32 that is aligned to 64 bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines {
    lines: Vec<Line>,
    len: usize,
}

impl Lines {
    pub(crate) fn zeros(len: usize) -> Self {
        Lines { lines: vec![Line::default(); len.div_ceil(16)], len }
    }
}

impl Deref for Lines {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a line is sixteen f32 and nothing else, and `len` is at most all lines'.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_aligned_and_whole() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let mut lines = Lines::zeros(len);
            assert!(lines.len() == len && lines.as_ptr().addr().is_multiple_of(64));
            lines.iter_mut().enumerate().for_each(|(i, v)| *v = i as f32);
            assert!(lines.iter().enumerate().all(|(i, v)| *v == i as f32));
        }
    }
}
