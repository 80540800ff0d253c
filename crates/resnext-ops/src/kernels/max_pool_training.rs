//! Max-pooling of an activation that is made while it is read, and its gradient.

use super::join::Line;
use super::shared::{SharedMut, written};
use super::simd::{Element, Isa, Kernel, Simd, run};
use rayon::prelude::*;
use std::ops::Range;

/// Windows over maps (N, H, W, C).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) batch: usize,
    pub(crate) src: (usize, usize),
    pub(crate) dst: (usize, usize),
    pub(crate) channels: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl Window {
    /// Source places of window `i` along a side of `len`.
    fn places(&self, i: usize, len: usize) -> Range<usize> {
        let start = i * self.stride;
        start.saturating_sub(self.padding)..(start + self.kernel).saturating_sub(self.padding).min(len)
    }

    /// Windows along a side, of which there are `count`, that hold place `at`.
    fn holding(&self, at: usize, count: usize) -> Range<usize> {
        let last = (at + self.padding) / self.stride;
        let first = (at + self.padding + 1).saturating_sub(self.kernel).div_ceil(self.stride);
        first..(last + 1).min(count)
    }

    /// The number of a place in the window whose places begin at `(y, x) · stride - padding`.
    fn number(&self, (oy, ox): (usize, usize), (y, x): (usize, usize)) -> usize {
        (y + self.padding - oy * self.stride) * self.kernel + x + self.padding - ox * self.stride
    }
}

/// The maximum of `max(line, 0)` in every window, and the number of the place it is first found at.
pub(crate) fn pool<T: Element>(isa: Isa, window: &Window, line: Line<T>) -> (Vec<T>, Vec<T>) {
    struct Row<'a, T> {
        window: &'a Window,
        line: Line<'a, T>,
        row: usize,
        out: [*mut T; 2],
    }
    impl<T: Element> Kernel<T> for Row<'_, T> {
        #[inline(always)]
        unsafe fn run<S: Simd<T = T>>(self) {
            let Row { window, line: Line { x, scale, shift }, row, out } = self;
            let ((h, w), c) = (window.src, window.channels);
            let (n, oy) = (row / window.dst.0, row % window.dst.0);
            let (scale, shift) = (&scale[..c], &shift[..c]);
            for ox in 0..window.dst.1 {
                // SAFETY: `pool` made sure that both outputs have the row.
                let [best, at] = out.map(|out| unsafe {
                    let out = out.add(ox * c);
                    out.write_bytes(0, c);
                    std::slice::from_raw_parts_mut(out, c)
                });
                let mut first = true;
                for y in window.places(oy, h) {
                    for px in window.places(ox, w) {
                        let number = T::of_f64(window.number((oy, ox), (y, px)) as f64);
                        let x = &x[((n * h + y) * w + px) * c..][..c];
                        for k in 0..c {
                            let v = x[k] * scale[k] + shift[k];
                            let v = if v < T::ZERO { T::ZERO } else { v };
                            // NaN wins and stays.
                            #[allow(clippy::eq_op)]
                            let wins = first || v > best[k] || v != v;
                            best[k] = if wins { v } else { best[k] };
                            at[k] = if wins { number } else { at[k] };
                        }
                        first = false;
                    }
                }
            }
        }
    }
    let Window { batch, src, dst, channels, .. } = *window;
    assert!(line.x.len() == batch * src.0 * src.1 * channels);
    let len = dst.1 * channels;
    let write = |best: &SharedMut<T>| {
        let rows = |at: &SharedMut<T>| {
            (0..batch * dst.0).into_par_iter().for_each(|row| {
                let out = [best, at].map(|out| out.pointer(row * len, len));
                run(isa, Row { window, line, row, out });
            });
        };
        // SAFETY: all rows are written.
        unsafe { written(batch * dst.0 * len, rows) }.0
    };
    // SAFETY: all rows are written.
    unsafe { written(batch * dst.0 * len, write) }
}

/// The gradient of what was pooled, by [`pool`]'s places, and what `finish` made of each row of it, in order.
pub(crate) fn pool_gradient<T: Element, R: Send>(
    isa: Isa,
    window: &Window,
    at: &[T],
    gradient: &[T],
    finish: impl Fn(usize, &mut [T]) -> R + Sync,
) -> (Vec<T>, Vec<R>) {
    struct Row<'a, T> {
        window: &'a Window,
        at: &'a [T],
        gradient: &'a [T],
        row: usize,
        out: &'a mut [T],
    }
    impl<T: Element> Kernel<T> for Row<'_, T> {
        #[inline(always)]
        unsafe fn run<S: Simd<T = T>>(self) {
            let Row { window, at, gradient, row, out } = self;
            let ((rows, columns), c) = (window.dst, window.channels);
            let (n, y) = (row / window.src.0, row % window.src.0);
            for (x, out) in out.chunks_exact_mut(c).enumerate() {
                for oy in window.holding(y, rows) {
                    for ox in window.holding(x, columns) {
                        let number = T::of_f64(window.number((oy, ox), (y, x)) as f64);
                        let start = ((n * rows + oy) * columns + ox) * c;
                        let (at, gradient) = (&at[start..][..c], &gradient[start..][..c]);
                        for k in 0..c {
                            out[k] += if at[k] == number { gradient[k] } else { T::ZERO };
                        }
                    }
                }
            }
        }
    }
    let Window { batch, src, dst, channels, .. } = *window;
    let len = batch * dst.0 * dst.1 * channels;
    assert!(at.len() == len && gradient.len() == len);
    let mut out = vec![T::ZERO; batch * src.0 * src.1 * channels];
    let rows = out.par_chunks_mut((src.1 * channels).max(1)).enumerate();
    let results = rows.map(|(row, out)| {
        run(isa, Row { window, at, gradient, row, out });
        finish(row * src.1, out)
    });
    let results = results.collect();
    (out, results)
}
