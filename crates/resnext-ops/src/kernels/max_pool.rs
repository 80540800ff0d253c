//! Max-pooling for inference.

use super::packed_conv::Pixels;
use super::simd::{Isa, Kernel, Simd, run};
use rayon::prelude::*;

/// Pools maps of `(source, height, width, channels)` by `(kernel, stride, padding)` into
/// `(output, its stride, rows of all maps, width)`.
pub(crate) fn max_pool_rows(
    isa: Isa,
    (src, h, w, c): (Pixels, usize, usize, usize),
    (kernel, stride, padding): (usize, usize, usize),
    (out, out_stride, rows, out_w): (&mut [f32], usize, usize, usize),
) {
    if rows == 0 || out_w == 0 {
        return;
    }
    let out_h = (h + 2 * padding - kernel) / stride + 1;
    out.par_chunks_mut(out_w * out_stride).take(rows).enumerate().for_each(|(row, out)| {
        let (image, y) = (row / out_h, row % out_h * stride);
        let clip =
            |start: usize, side: usize| start.saturating_sub(padding)..(start + kernel - padding).min(side);
        for (j, out) in out.chunks_exact_mut(out_stride).take(out_w).enumerate() {
            out[..c].fill(f32::NEG_INFINITY);
            for y in clip(y, h) {
                for x in clip(j * stride, w) {
                    let start = ((image * h + y) * w + x) * src.stride;
                    run(isa, Larger { out: &mut out[..c], x: &src.data[start..start + c] });
                }
            }
        }
    });
}

/// `out = max(out, x)`; NaN wins.
struct Larger<'a> {
    out: &'a mut [f32],
    x: &'a [f32],
}

impl Kernel<f32> for Larger<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd<T = f32>>(self) {
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            if x > *out || x.is_nan() {
                *out = x;
            }
        }
    }
}
