//! Max-pooling for inference.

use super::packed_conv::Pixels;
use super::shared::SharedMut;
use super::simd::{Isa, Kernel, Simd, run};
use super::words::WordType;
use crate::crew::Crew;

/// Pools maps of `(source, height, width, channels)` by `(kernel, stride, padding)` into
/// `(output, its stride, rows of all maps, width)`.
pub(crate) fn max_pool_rows(
    crew: &Crew,
    words: WordType,
    (src, h, w, c): (Pixels, usize, usize, usize),
    (kernel, stride, padding): (usize, usize, usize),
    (out, out_stride, rows, out_w): (&mut [f32], usize, usize, usize),
) {
    if rows == 0 || out_w == 0 {
        return;
    }
    let out_h = (h + 2 * padding - kernel) / stride + 1;
    let width = c.div_ceil(words.channels());
    let out = SharedMut::new(out);
    crew.for_each(rows, |row| {
        let (image, y) = (row / out_h, row % out_h * stride);
        let clip =
            |start: usize, side: usize| start.saturating_sub(padding)..(start + kernel - padding).min(side);
        for j in 0..out_w {
            // SAFETY: each task has a row of its own.
            let out = unsafe { out.slice((row * out_w + j) * out_stride, width) };
            let mut first = true;
            for y in clip(y, h) {
                for x in clip(j * stride, w) {
                    let start = ((image * h + y) * w + x) * src.stride;
                    let x = &src.data[start..start + width];
                    match std::mem::take(&mut first) {
                        true => out.copy_from_slice(x),
                        false => run(Isa::current(), Larger { words, out, x }),
                    }
                }
            }
        }
    });
}

/// `out = max(out, x)`, channel by channel; NaN wins.
struct Larger<'a> {
    words: WordType,
    out: &'a mut [f32],
    x: &'a [f32],
}

impl Kernel<f32> for Larger<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd<T = f32>>(self) {
        let larger = |out: f32, x: f32| if x > out || x.is_nan() { x } else { out };
        let halves = |word: f32| {
            let bits = word.to_bits();
            (f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000))
        };
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            *out = match self.words {
                WordType::F32 => larger(*out, x),
                WordType::Bf16 => {
                    let ((o0, o1), (x0, x1)) = (halves(*out), halves(x));
                    f32::from_bits(larger(o0, x0).to_bits() >> 16 | larger(o1, x1).to_bits())
                }
                WordType::U8(_) => {
                    let (out, x) = (out.to_bits().to_le_bytes(), x.to_bits().to_le_bytes());
                    f32::from_bits(u32::from_le_bytes(std::array::from_fn(|i| out[i].max(x[i]))))
                }
            };
        }
    }
}
