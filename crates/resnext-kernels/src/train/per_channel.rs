//! Element-wise functions with coefficients per channel, over maps (pixels, channels).

use crate::simd::dispatch::{Isa, dispatch};
use crate::simd::traits::{Element, Kernel, Simd};
use rayon::prelude::*;

/// Elements per block: it fits a second-level cache, so that a second pass over it is cheap.
const BLOCK: usize = 1 << 15;

pub fn block_len(channels: usize) -> usize {
    (BLOCK / channels.max(1)).max(1) * channels.max(1)
}

/// `x·scale + shift`, and with `relu` the maximum of that and zero; NaN stays.
pub fn scale_shift<T: Element>(isa: Isa, x: &[T], scale: &[T], shift: &[T], relu: bool) -> Vec<T> {
    per_channel(isa, [x, x], [scale, shift, shift], move |[x, _], [scale, shift, _]| {
        let y = x * scale + shift;
        if relu && y < T::ZERO { T::ZERO } else { y }
    })
}

/// `a·g + b·x + d`.
pub fn combine<T: Element>(isa: Isa, g: &[T], x: &[T], coefficients: [&[T]; 3]) -> Vec<T> {
    per_channel(isa, [g, x], coefficients, |[g, x], [a, b, d]| g * a + x * b + d)
}

/// `g` where `y` is above zero, and zero elsewhere, of maps with `channels`.
pub fn where_positive<T: Element>(isa: Isa, channels: usize, y: &[T], g: &[T]) -> Vec<T> {
    let unused = &vec![T::ZERO; channels][..];
    per_channel(isa, [g, y], [unused; 3], |[g, y], _| if y > T::ZERO { g } else { T::ZERO })
}

/// `f(inputs, coefficients of the channel)`, element by element.
fn per_channel<T: Element>(
    isa: Isa,
    inputs: [&[T]; 2],
    coefficients: [&[T]; 3],
    f: impl Fn([T; 2], [T; 3]) -> T + Copy + Sync,
) -> Vec<T> {
    struct Map<'a, T, F> {
        out: &'a mut [T],
        inputs: [&'a [T]; 2],
        coefficients: [&'a [T]; 3],
        f: F,
    }
    impl<T: Element, F: Fn([T; 2], [T; 3]) -> T> Kernel<T> for Map<'_, T, F> {
        #[inline(always)]
        unsafe fn with_simd<S: Simd<T = T>>(self) {
            let [a, b, d] = self.coefficients;
            let channels = a.len();
            let [x, y] = self.inputs.map(|v| v.chunks_exact(channels));
            for ((out, x), y) in self.out.chunks_exact_mut(channels).zip(x).zip(y) {
                let (x, y, b, d) = (&x[..channels], &y[..channels], &b[..channels], &d[..channels]);
                for k in 0..channels {
                    out[k] = (self.f)([x[k], y[k]], [a[k], b[k], d[k]]);
                }
            }
        }
    }
    let mut out = vec![T::ZERO; inputs[0].len()];
    let len = block_len(coefficients[0].len());
    out.par_chunks_mut(len).enumerate().for_each(|(i, out)| {
        let inputs = inputs.map(|v| &v[i * len..i * len + out.len()]);
        dispatch(isa, Map { out, inputs, coefficients, f });
    });
    out
}
