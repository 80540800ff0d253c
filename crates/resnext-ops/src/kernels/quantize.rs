//! Maps of f32 or bf16, in eight bits.

use super::packed_conv::Pixels;
use super::shared::SharedMut;
use super::simd::{Isa, Kernel, Simd, run};
use super::words::WordType;
use crate::crew::Crew;
use crate::quantization::Quantization;
use std::sync::atomic::{AtomicBool, Ordering};

/// Writes rows of `width` pixels of so many channels into `(output, its stride)`, and says whether all were finite.
pub(crate) fn quantize_rows(
    crew: &Crew,
    (src, words, channels): (Pixels, WordType, usize),
    quantization: Quantization,
    (rows, width): (usize, usize),
    (out, out_stride): (&mut [f32], usize),
) -> bool {
    let out = SharedMut::new(out);
    let finite = AtomicBool::new(true);
    crew.for_each(rows, |row| {
        // SAFETY: each task has a row of its own.
        let out = unsafe { out.slice(row * width * out_stride, width * out_stride) };
        let mut all_finite = true;
        for (i, out) in out.chunks_exact_mut(out_stride.max(1)).enumerate() {
            let pixel = &src.data[(row * width + i) * src.stride..][..channels.div_ceil(words.channels())];
            // SAFETY: f32 has no invalid bits and a larger alignment than u8.
            let (_, out, _) = unsafe { out.align_to_mut::<u8>() };
            let out = &mut out[..channels];
            run(Isa::current(), Quantize { pixel, words, quantization, out, finite: &mut all_finite });
        }
        if !all_finite {
            finite.store(false, Ordering::Relaxed);
        }
    });
    finite.into_inner()
}

/// One pixel.
struct Quantize<'a> {
    pixel: &'a [f32],
    words: WordType,
    quantization: Quantization,
    out: &'a mut [u8],
    /// Made false by a value that is not.
    finite: &'a mut bool,
}

impl Kernel<f32> for Quantize<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd<T = f32>>(self) {
        let mut finite = true;
        let mut put = |q: &mut u8, x: f32| {
            finite &= x.to_bits() << 1 < f32::INFINITY.to_bits() << 1;
            *q = self.quantization.nearest(x);
        };
        match self.words {
            WordType::Bf16 => {
                for (pair, word) in self.out.chunks_mut(2).zip(self.pixel) {
                    let halves = [word.to_bits() << 16, word.to_bits() & 0xffff_0000];
                    pair.iter_mut().zip(halves).for_each(|(q, bits)| put(q, f32::from_bits(bits)));
                }
            }
            _ => self.out.iter_mut().zip(self.pixel).for_each(|(q, &x)| put(q, x)),
        }
        *self.finite &= finite;
    }
}
