//! Max-pooling in training, of an activation that is computed while it is read, and its gradient.

use super::block_sink::{BlockSink, Blocks};
use super::operand::Affine;
use crate::shape::pool_window;
use crate::simd::dispatch::{Isa, dispatch};
use crate::simd::traits::{Element, Kernel, Simd, Storage};
use crate::threads::shared_slice::{SharedSlice, write_vec};
use rayon::prelude::*;
use std::ops::Range;

/// The windows of a max-pooling over maps (N, H, W, C), at most [`MAX_WINDOW`] pixels wide and high.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// The batch size N.
    pub batch: usize,
    /// The height H and width W of the maps.
    pub src: (usize, usize),
    /// The number of windows down and across a map, H' and W'.
    pub dst: (usize, usize),
    /// The number of channels C.
    pub channels: usize,
    /// The height and width of a window in pixels.
    pub kernel: usize,
    /// Pixels from one window to the next.
    pub stride: usize,
    /// Pixels that windows reach beyond each side of the map; they are never the maximum.
    pub padding: usize,
}

/// The largest window: a position in it is numbered by one byte.
pub const MAX_WINDOW: usize = 16;

impl Window {
    /// The source pixels of window `i` along a side of `len`.
    fn places(&self, i: usize, len: usize) -> Range<usize> {
        pool_window(i, len, self.kernel, self.stride, self.padding)
    }

    /// The windows along a side, of `count`, that contain pixel `at`.
    fn holding(&self, at: usize, count: usize) -> Range<usize> {
        let last = (at + self.padding) / self.stride;
        let first = (at + self.padding + 1).saturating_sub(self.kernel).div_ceil(self.stride);
        first..(last + 1).min(count)
    }

    /// The position of pixel `(y, x)` in window `(oy, ox)`, row-major.
    fn number(&self, (oy, ox): (usize, usize), (y, x): (usize, usize)) -> usize {
        (y + self.padding - oy * self.stride) * self.kernel + x + self.padding - ox * self.stride
    }
}

/// The maximum of `max(affine, 0)` in every window, and its position in the window, the first of equal ones.
pub fn max_pool<D: Storage>(isa: Isa, window: &Window, affine: Affine<D>) -> (Vec<D>, Vec<u8>) {
    struct PoolRow<'a, D: Storage> {
        window: &'a Window,
        affine: Affine<'a, D>,
        row: usize,
        out: *mut D,
        at: &'a mut [u8],
    }
    impl<D: Storage> Kernel<D::Compute> for PoolRow<'_, D> {
        #[inline(always)]
        unsafe fn with_simd<S: Simd<T = D::Compute>>(self) {
            let PoolRow { window, affine: Affine { x, scale, shift }, row, out, at } = self;
            let ((h, w), c) = (window.src, window.channels);
            let (n, oy) = (row / window.dst.0, row % window.dst.0);
            let (scale, shift) = (&scale[..c], &shift[..c]);
            // Values are compared before they are rounded; positions are as wide as values, so that the loop vectorises.
            let mut memory = vec![D::Compute::ZERO; 2 * c];
            let (best, places) = memory.split_at_mut(c);
            let (best, places) = (&mut best[..c], &mut places[..c]);
            for (ox, at) in at.chunks_exact_mut(c).enumerate() {
                let mut first = true;
                for y in window.places(oy, h) {
                    for px in window.places(ox, w) {
                        let number = D::Compute::of_f64(window.number((oy, ox), (y, px)) as f64);
                        let x = &x[((n * h + y) * w + px) * c..][..c];
                        for k in 0..c {
                            let v = x[k].widen() * scale[k] + shift[k];
                            let v = if v < D::Compute::ZERO { D::Compute::ZERO } else { v };
                            // NaN is larger than every number, and stays the maximum.
                            #[allow(clippy::eq_op)]
                            let wins = first || v > best[k] || v != v;
                            best[k] = if wins { v } else { best[k] };
                            places[k] = if wins { number } else { places[k] };
                        }
                        first = false;
                    }
                }
                for k in 0..c {
                    // SAFETY: `max_pool` asserted that the output has the row, as many pixels as `at`.
                    unsafe { out.add(ox * c + k).write(D::narrow(best[k])) };
                    at[k] = places[k].as_f64() as u8;
                }
            }
        }
    }
    let Window { batch, src, dst, channels, kernel, .. } = *window;
    assert!(affine.x.len() == batch * src.0 * src.1 * channels && kernel <= MAX_WINDOW);
    let len = dst.1 * channels;
    let mut at = vec![0; batch * dst.0 * len];
    let write = |best: &SharedSlice<D>| {
        at.par_chunks_mut(len.max(1)).enumerate().for_each(|(row, at)| {
            let out = best.pointer(row * len, len);
            dispatch(isa, PoolRow { window, affine, row, out, at });
        });
    };
    // SAFETY: all rows are written.
    let (best, ()) = unsafe { write_vec(batch * dst.0 * len, write) };
    (best, at)
}

/// The gradient of [`max_pool`]'s input, from the positions it returned, and what `sink` computed from each row of it, in
/// order.
pub fn max_pool_gradient<D: Storage>(
    isa: Isa,
    window: &Window,
    at: &[u8],
    gradient: &[D],
    sink: BlockSink<D>,
) -> (Vec<D>, Blocks<D>) {
    struct GradientRow<'a, D> {
        window: &'a Window,
        at: &'a [u8],
        gradient: &'a [D],
        row: usize,
        out: *mut D,
    }
    impl<D: Storage> Kernel<D::Compute> for GradientRow<'_, D> {
        #[inline(always)]
        unsafe fn with_simd<S: Simd<T = D::Compute>>(self) {
            let GradientRow { window, at, gradient, row, out } = self;
            let ((rows, columns), c) = (window.dst, window.channels);
            let (n, y) = (row / window.src.0, row % window.src.0);
            let mut sums = vec![D::Compute::ZERO; c];
            let sums = &mut sums[..c];
            for x in 0..window.src.1 {
                sums.fill(D::Compute::ZERO);
                for oy in window.holding(y, rows) {
                    for ox in window.holding(x, columns) {
                        let number = window.number((oy, ox), (y, x)) as u8;
                        let start = ((n * rows + oy) * columns + ox) * c;
                        let (at, gradient) = (&at[start..][..c], &gradient[start..][..c]);
                        for k in 0..c {
                            sums[k] += if at[k] == number { gradient[k].widen() } else { D::Compute::ZERO };
                        }
                    }
                }
                for (k, &sum) in sums.iter().enumerate() {
                    // SAFETY: `max_pool_gradient` asserted that the output has the row.
                    unsafe { out.add(x * c + k).write(D::narrow(sum)) };
                }
            }
        }
    }
    let Window { batch, src, dst, channels, kernel, .. } = *window;
    let len = batch * dst.0 * dst.1 * channels;
    assert!(at.len() == len && gradient.len() == len && kernel <= MAX_WINDOW);
    let row_len = src.1 * channels;
    let write = |out: &SharedSlice<D>| -> Blocks<D> {
        let rows = (0..batch * src.0).into_par_iter().map(|row| {
            let (start, first) = (row * row_len, row * src.1);
            dispatch(isa, GradientRow { window, at, gradient, row, out: out.pointer(start, row_len) });
            // SAFETY: the whole row was just written, and is this task's alone.
            sink.take(isa, channels, first, unsafe { out.slice(start, row_len) })
        });
        rows.collect()
    };
    // SAFETY: all rows are written.
    unsafe { write_vec(batch * src.0 * row_len, write) }
}
