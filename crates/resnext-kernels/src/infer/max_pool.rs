//! Max-pooling of inference, over f32, bf16 and int8 maps.

use super::job::PixelView;
use super::precision::{MapType, bytes, bytes_mut, halves, halves_mut};
use crate::shape::pool_window;
use crate::simd::dispatch::{Isa, dispatch};
use crate::simd::traits::{Kernel, Simd};
use crate::threads::shared_slice::SharedSlice;
use crate::threads::team::ThreadTeam;

/// Max-pools maps (N, H, W, C) of type `map_type` into (N, H', W', C).
///
/// The tuples are (source, H, W, C), (kernel, stride, padding) in pixels, and (output, words from one of its pixels to
/// the next, N·H', W'). A NaN in a window makes its maximum NaN; padding is never the maximum. The kernel must not be
/// larger than the padded map.
///
/// # Panics
/// If the source or the output is too short.
pub fn max_pool_rows(
    team: &ThreadTeam,
    map_type: MapType,
    (src, h, w, c): (PixelView, usize, usize, usize),
    (kernel, stride, padding): (usize, usize, usize),
    (out, out_stride, rows, out_w): (&mut [f32], usize, usize, usize),
) {
    if rows == 0 || out_w == 0 {
        return;
    }
    let out_h = (h + 2 * padding - kernel) / stride + 1;
    let width = c.div_ceil(map_type.channels());
    let out = SharedSlice::new(out);
    team.for_each(rows, |row| {
        let (image, y) = (row / out_h, row % out_h);
        // SAFETY: each task has a row of its own.
        let out = unsafe { out.slice(row * out_w * out_stride, out_w * out_stride) };
        let pixels = |x: usize| {
            let columns = pool_window(x, w, kernel, stride, padding);
            let rows = pool_window(y, h, kernel, stride, padding);
            rows.flat_map(move |y| columns.clone().map(move |x| (image * h + y) * w + x))
        };
        dispatch(Isa::current(), PoolRow { map_type, width, src, pixels, out, out_stride });
    });
}

/// A row of the output.
struct PoolRow<'a, F> {
    map_type: MapType,
    /// Words per pixel.
    width: usize,
    src: PixelView<'a>,
    /// The source pixels of an output pixel's window.
    pixels: F,
    out: &'a mut [f32],
    out_stride: usize,
}

impl<I: Iterator<Item = usize>, F: Fn(usize) -> I> Kernel<f32> for PoolRow<'_, F> {
    // Loops, not iterators' closures, which would be compiled without S's instructions.
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = f32>>(self) {
        for (j, out) in self.out.chunks_exact_mut(self.out_stride).enumerate() {
            let out = &mut out[..self.width];
            let mut first = true;
            for pixel in (self.pixels)(j) {
                let x = &self.src.data[pixel * self.src.stride..][..self.width];
                match std::mem::take(&mut first) {
                    true => out.copy_from_slice(x),
                    false => take_larger(self.map_type, out, x),
                }
            }
        }
    }
}

/// `out = max(out, x)` per channel, where NaN is the largest value.
#[inline(always)]
fn take_larger(map_type: MapType, out: &mut [f32], x: &[f32]) {
    match map_type {
        MapType::F32 => {
            for (out, &x) in out.iter_mut().zip(x) {
                *out = larger(*out, x);
            }
        }
        MapType::Bf16 => {
            for (out, &x) in halves_mut(out).iter_mut().zip(halves(x)) {
                *out = if order(x) > order(*out) { x } else { *out };
            }
        }
        MapType::U8(_) => {
            for (out, &x) in bytes_mut(out).iter_mut().zip(bytes(x)) {
                *out = (*out).max(x);
            }
        }
    }
}

#[inline(always)]
fn larger(out: f32, x: f32) -> f32 {
    if x > out || x.is_nan() { x } else { out }
}

/// A key that orders bf16 bits as their values, NaN of either sign last. As i16, a vector holds twice as many as of f32.
#[inline(always)]
fn order(bits: u16) -> i16 {
    let infinity = half::bf16::INFINITY.to_bits() as i16;
    let signed = bits as i16;
    // Of two negative values, the one with the larger bits is smaller. Negative NaN would be below negative infinity; the
    // subtraction wraps it to the top.
    (signed ^ (signed >> 15 & i16::MAX)).wrapping_sub(i16::MAX - infinity)
}
