//! Maps with coefficients a channel, over a channels-last matrix of pixels × channels.

use crate::simd::dispatch::{Isa, run};
use crate::simd::traits::{Element, Kernel, Simd};
use rayon::prelude::*;

/// Elements a block: fits a second-level cache, so that a second pass over it is cheap.
const BLOCK: usize = 1 << 15;

pub fn block_len(channels: usize) -> usize {
    (BLOCK / channels.max(1)).max(1) * channels.max(1)
}

/// `out = f(inputs, coefficients of the channel)`, element by element.
pub fn per_channel<T: Element>(
    isa: Isa,
    channels: usize,
    out: &mut [T],
    inputs: [&[T]; 2],
    coefficients: [&[T]; 3],
    f: impl Fn([T; 2], [T; 3]) -> T + Copy + Sync,
) {
    struct Map<'a, T, F> {
        out: &'a mut [T],
        inputs: [&'a [T]; 2],
        coefficients: [&'a [T]; 3],
        f: F,
    }
    impl<T: Element, F: Fn([T; 2], [T; 3]) -> T> Kernel<T> for Map<'_, T, F> {
        #[inline(always)]
        unsafe fn run<S: Simd<T = T>>(self) {
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
    let len = block_len(channels);
    out.par_chunks_mut(len).enumerate().for_each(|(i, out)| {
        let inputs = inputs.map(|v| &v[i * len..i * len + out.len()]);
        run(isa, Map { out, inputs, coefficients, f });
    });
}
