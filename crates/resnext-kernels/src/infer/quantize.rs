//! Quantization of f32 and bf16 maps to int8.

use super::job::PixelView;
use super::precision::{MapType, bytes_mut, unpair};
use super::quantization::Quantization;
use crate::simd::dispatch::{Isa, dispatch};
use crate::simd::traits::{Kernel, Simd};
use crate::threads::shared_slice::SharedSlice;
use crate::threads::team::ThreadTeam;
use std::sync::atomic::{AtomicBool, Ordering};

/// Quantizes maps of f32 or bf16 to int8, each value as [`Quantization::nearest`] does. Returns whether all values were
/// finite.
///
/// The tuples are (source, its type, channels), (rows of all maps, pixels per row), and (output, words from one of its
/// pixels to the next).
///
/// # Panics
/// If the source or the output is too short.
pub fn quantize_rows(
    team: &ThreadTeam,
    (src, map_type, channels): (PixelView, MapType, usize),
    quantization: Quantization,
    (rows, width): (usize, usize),
    (out, out_stride): (&mut [f32], usize),
) -> bool {
    let (out, stride) = (SharedSlice::new(out), src.stride);
    let finite = AtomicBool::new(true);
    team.for_each(rows, |row| {
        // SAFETY: each task has a row of its own.
        let out = unsafe { out.slice(row * width * out_stride, width * out_stride) };
        let mut all_finite = true;
        let src = &src.data[row * width * src.stride..];
        let row = QuantizeRow {
            src,
            stride,
            map_type,
            channels,
            quantization,
            out,
            out_stride,
            finite: &mut all_finite,
        };
        dispatch(Isa::current(), row);
        if !all_finite {
            finite.store(false, Ordering::Relaxed);
        }
    });
    finite.into_inner()
}

/// A row of pixels.
struct QuantizeRow<'a> {
    src: &'a [f32],
    stride: usize,
    map_type: MapType,
    channels: usize,
    quantization: Quantization,
    out: &'a mut [f32],
    out_stride: usize,
    /// Set to false if any value is not finite.
    finite: &'a mut bool,
}

impl Kernel<f32> for QuantizeRow<'_> {
    // Loops, not iterators' closures, which would be compiled without S's instructions.
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = f32>>(self) {
        let QuantizeRow { src, stride, map_type, channels, quantization, out, out_stride, finite } = self;
        // Infinities and NaN have all exponent bits set.
        let mut largest = 0;
        for (i, out) in out.chunks_exact_mut(out_stride.max(1)).enumerate() {
            let (out, pixel) = (&mut bytes_mut(out)[..channels], &src[i * stride..]);
            match map_type {
                MapType::Bf16 => {
                    for (pair, word) in out.chunks_mut(2).zip(pixel) {
                        for (q, x) in pair.iter_mut().zip(unpair(*word)) {
                            largest = largest.max(x.to_bits() & f32::INFINITY.to_bits());
                            *q = quantization.nearest(x);
                        }
                    }
                }
                _ => {
                    for (q, x) in out.iter_mut().zip(pixel) {
                        largest = largest.max(x.to_bits() & f32::INFINITY.to_bits());
                        *q = quantization.nearest(*x);
                    }
                }
            }
        }
        *finite &= largest < f32::INFINITY.to_bits();
    }
}
