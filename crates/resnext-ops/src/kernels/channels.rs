//! Passes over a channels-last matrix of pixels × channels: statistics a channel, and maps with
//! coefficients a channel.
//!
//! Plain loops, compiled for the instruction set in use. Sums run over fixed blocks of pixels and are
//! merged in order, in f64: the same bits for any number of threads.

use super::simd::{Element, Isa, Kernel, Simd, run};
use rayon::prelude::*;
use std::ops::Add;

/// Elements a block: fits a second-level cache, so that a second pass over it is cheap.
const BLOCK: usize = 1 << 15;

fn block_len(channels: usize) -> usize {
    (BLOCK / channels.max(1)).max(1) * channels.max(1)
}

/// The mean and biased variance of each channel of `x` (pixels × channels).
pub(crate) fn mean_and_variance<T: Element>(isa: Isa, x: &[T], channels: usize) -> (Vec<f64>, Vec<f64>) {
    struct Moments<'a, T> {
        x: &'a [T],
        mean: &'a mut [T],
        squares: &'a mut [T],
    }
    impl<T: Element> Kernel<T> for Moments<'_, T> {
        #[inline(always)]
        unsafe fn run<S: Simd<T = T>>(self) {
            let channels = self.mean.len();
            for row in self.x.chunks_exact(channels) {
                for (sum, &x) in self.mean.iter_mut().zip(row) {
                    *sum += x;
                }
            }
            let scale = T::of_f64(channels as f64 / self.x.len() as f64);
            for mean in self.mean.iter_mut() {
                *mean *= scale;
            }
            // Squares of differences from the block's own mean: no cancellation.
            for row in self.x.chunks_exact(channels) {
                for ((sum, &mean), &x) in self.squares.iter_mut().zip(self.mean.iter()).zip(row) {
                    let d = x - mean;
                    *sum += d * d;
                }
            }
        }
    }
    let blocks: Vec<(f64, Vec<T>, Vec<T>)> = x
        .par_chunks(block_len(channels))
        .map(|x| {
            let (mut mean, mut squares) = (vec![T::ZERO; channels], vec![T::ZERO; channels]);
            run(isa, Moments { x, mean: &mut mean, squares: &mut squares });
            ((x.len() / channels) as f64, mean, squares)
        })
        .collect();
    // Chan, Golub and LeVeque's merge of block means and sums of squares.
    let (mut count, mut mean, mut squares) = (0.0, vec![0.0; channels], vec![0.0; channels]);
    for (n, block_mean, block_squares) in blocks {
        let total = count + n;
        for k in 0..channels {
            let delta = block_mean[k].as_f64() - mean[k];
            mean[k] += delta * n / total;
            squares[k] += block_squares[k].as_f64() + delta * delta * count * n / total;
        }
        count = total;
    }
    let variance = squares.into_iter().map(|s| s / count).collect();
    (mean, variance)
}

/// `Σ g` and `Σ g·(x - mean)` a channel, where `g = masked(grad, gate)`; `inputs` are grad, gate and x.
pub(crate) fn channel_sums<T: Element>(
    isa: Isa,
    channels: usize,
    inputs: [&[T]; 3],
    mean: &[T],
    masked: impl Fn(T, T) -> T + Copy + Sync,
) -> (Vec<f64>, Vec<f64>) {
    struct Sums<'a, T, F> {
        inputs: [&'a [T]; 3],
        mean: &'a [T],
        sums: [&'a mut [T]; 2],
        masked: F,
    }
    impl<T: Element, F: Fn(T, T) -> T> Kernel<T> for Sums<'_, T, F> {
        #[inline(always)]
        unsafe fn run<S: Simd<T = T>>(self) {
            let channels = self.mean.len();
            let [grad, gate, x] = self.inputs.map(|v| v.chunks_exact(channels));
            let [sum_g, sum_gx] = self.sums;
            for ((grad, gate), x) in grad.zip(gate).zip(x) {
                for k in 0..channels {
                    let g = (self.masked)(grad[k], gate[k]);
                    sum_g[k] += g;
                    sum_gx[k] += g * (x[k] - self.mean[k]);
                }
            }
        }
    }
    let len = block_len(channels);
    let blocks: Vec<[Vec<T>; 2]> = (0..inputs[0].len().div_ceil(len))
        .into_par_iter()
        .map(|i| {
            let inputs = inputs.map(|v| &v[i * len..v.len().min((i + 1) * len)]);
            let mut sums = [vec![T::ZERO; channels], vec![T::ZERO; channels]];
            run(isa, Sums { inputs, mean, sums: sums.each_mut().map(Vec::as_mut_slice), masked });
            sums
        })
        .collect();
    let total = |part: usize| {
        (0..channels).map(|k| blocks.iter().map(|sums| sums[part][k].as_f64()).fold(0.0, f64::add)).collect()
    };
    (total(0), total(1))
}

/// `out = f(inputs, coefficients of the channel)`, element by element.
pub(crate) fn per_channel<T: Element>(
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
