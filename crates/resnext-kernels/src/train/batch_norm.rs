//! Batch norm's sums per channel, over maps (pixels, channels): mean and variance, and the two sums of its gradient.
//!
//! Sums run over fixed blocks of pixels and are merged in order, in f64, so they have the same bits for any number of
//! threads.

use super::operand::Gate;
use super::per_channel::block_len;
use crate::simd::dispatch::{Isa, dispatch};
use crate::simd::traits::{Element, Kernel, Simd, Storage};
use rayon::prelude::*;
use std::ops::Add;

/// The mean and biased variance of each channel of `x` (pixels, channels).
pub fn mean_and_variance<T: Element>(isa: Isa, x: &[T], channels: usize) -> (Vec<f64>, Vec<f64>) {
    let blocks = x.par_chunks(block_len(channels)).map(|x| Moments::of(isa, x, channels)).collect::<Vec<_>>();
    Moments::merge(channels, &blocks)
}

/// Mean and sum of squared deviations per channel, over a block of pixels.
#[derive(Debug)]
pub struct Moments<T> {
    count: f64,
    mean: Vec<T>,
    squares: Vec<T>,
}

impl<T: Element> Moments<T> {
    /// Computes the moments of a block of pixels in two passes. The block should be small enough to stay in the cache.
    pub fn of<D: Storage<Compute = T>>(isa: Isa, x: &[D], channels: usize) -> Self {
        struct Passes<'a, D: Storage> {
            x: &'a [D],
            mean: &'a mut [D::Compute],
            squares: &'a mut [D::Compute],
        }
        impl<D: Storage> Kernel<D::Compute> for Passes<'_, D> {
            #[inline(always)]
            unsafe fn with_simd<S: Simd<T = D::Compute>>(self) {
                let Passes { x, mean, squares } = self;
                let channels = mean.len();
                let scale = D::Compute::of_f64(channels as f64 / x.len() as f64);
                // Deviations from the block's own mean, so that nothing cancels.
                if channels.is_multiple_of(S::LANES) {
                    // SAFETY: the CPU has S's instructions; `x` is whole vectors of every channel and row.
                    unsafe {
                        let rows = x.len() / channels;
                        column_sums::<S, 1>(rows, channels, [mean], &Values(x));
                        mean.iter_mut().for_each(|mean| *mean *= scale);
                        let minus: Vec<D::Compute> =
                            mean.iter().map(|&mean| mean * D::Compute::of_f64(-1.0)).collect();
                        column_sums::<S, 1>(rows, channels, [squares], &Squares(x, &minus));
                    }
                    return;
                }
                for row in x.chunks_exact(channels) {
                    for (sum, &x) in mean.iter_mut().zip(row) {
                        *sum += x.widen();
                    }
                }
                mean.iter_mut().for_each(|mean| *mean *= scale);
                for row in x.chunks_exact(channels) {
                    for ((sum, &mean), &x) in squares.iter_mut().zip(mean.iter()).zip(row) {
                        let d = x.widen() - mean;
                        *sum += d * d;
                    }
                }
            }
        }
        let (mut mean, mut squares) = (vec![T::ZERO; channels], vec![T::ZERO; channels]);
        dispatch(isa, Passes { x, mean: &mut mean, squares: &mut squares });
        Moments { count: (x.len() / channels.max(1)) as f64, mean, squares }
    }

    /// Mean and biased variance over all blocks, merged in order (Chan, Golub and LeVeque).
    pub fn merge(channels: usize, blocks: &[Self]) -> (Vec<f64>, Vec<f64>) {
        let (mut count, mut mean, mut squares) = (0.0, vec![0.0; channels], vec![0.0; channels]);
        for block in blocks {
            let total = count + block.count;
            for k in 0..channels {
                let delta = block.mean[k].as_f64() - mean[k];
                mean[k] += delta * block.count / total;
                squares[k] += block.squares[k].as_f64() + delta * delta * count * block.count / total;
            }
            count = total;
        }
        let variance = squares.into_iter().map(|s| s / count).collect();
        (mean, variance)
    }
}

/// The terms of a sum. This is a trait rather than a closure: a closure may not be inlined, and would then be compiled
/// without the loop's target features.
pub trait Terms<S: Simd, const K: usize> {
    /// `K` terms for the vector that starts at element `at` of a (rows, channels) matrix, with its first channel.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions, and there is such a vector.
    unsafe fn at(&self, at: usize, channel: usize) -> [S::V; K];
}

struct Values<'a, D>(&'a [D]);

impl<D: Storage, S: Simd<T = D::Compute>> Terms<S, 1> for Values<'_, D> {
    #[inline(always)]
    unsafe fn at(&self, at: usize, _: usize) -> [S::V; 1] {
        // SAFETY: the trait's contract.
        unsafe { [D::load::<S>(self.0.as_ptr().add(at))] }
    }
}

/// Squares of values plus an offset per channel.
struct Squares<'a, D: Storage>(&'a [D], &'a [D::Compute]);

impl<D: Storage, S: Simd<T = D::Compute>> Terms<S, 1> for Squares<'_, D> {
    #[inline(always)]
    unsafe fn at(&self, at: usize, channel: usize) -> [S::V; 1] {
        let Squares(x, plus) = self;
        // SAFETY: the trait's contract.
        unsafe {
            let d = S::add(D::load::<S>(x.as_ptr().add(at)), S::load(plus.as_ptr().add(channel)));
            [S::fma(d, d, S::zero())]
        }
    }
}

/// Adds all terms to `K` sums per channel.
///
/// # Safety
/// The CPU has `S`'s instructions, LANES divides the channels, and `terms` has as many rows and channels.
#[inline(always)]
pub unsafe fn column_sums<S: Simd, const K: usize>(
    rows: usize,
    channels: usize,
    mut sums: [&mut [S::T]; K],
    terms: &impl Terms<S, K>,
) {
    /// # Safety
    /// The same as for [`column_sums`], for `V` vectors from channel `k` on.
    #[inline(always)]
    unsafe fn strip<S: Simd, const K: usize, const V: usize>(
        rows: std::ops::Range<usize>,
        (channels, k): (usize, usize),
        sums: &mut [&mut [S::T]; K],
        terms: &impl Terms<S, K>,
    ) {
        // SAFETY: the function's contract.
        unsafe {
            let mut acc = [[S::zero(); K]; V];
            for row in rows {
                for v in 0..V {
                    let k = k + v * S::LANES;
                    let values = terms.at(row * channels + k, k);
                    for i in 0..K {
                        acc[v][i] = S::add(acc[v][i], values[i]);
                    }
                }
            }
            for v in 0..V {
                for i in 0..K {
                    let sum = sums[i][k + v * S::LANES..][..S::LANES].as_mut_ptr();
                    S::store(sum, S::add(S::load(sum), acc[v][i]));
                }
            }
        }
    }
    // A few rows at a time, so that memory is read nearly in order.
    for first in (0..rows).step_by(ROWS) {
        let some = first..rows.min(first + ROWS);
        let mut k = 0;
        while k < channels {
            // SAFETY: passed on.
            unsafe {
                if k + 4 * S::LANES <= channels {
                    strip::<S, K, 4>(some.clone(), (channels, k), &mut sums, terms);
                    k += 4 * S::LANES;
                } else {
                    strip::<S, K, 1>(some.clone(), (channels, k), &mut sums, terms);
                    k += S::LANES;
                }
            }
        }
    }
}

/// Rows whose sums are kept in registers.
const ROWS: usize = 16;

/// `Σ g` and `Σ g·(x - mean)` per channel, over a block of pixels: the two sums that batch norm's gradient needs.
#[derive(Debug)]
pub struct GradientSums<T>(pub [Vec<T>; 2]);

impl<T: Element> GradientSums<T> {
    /// Turns `g`, the gradient of a block of `max(x·scale + shift, 0)` that starts at pixel `first`, into the gradient of
    /// `x·scale + shift`, and sums that.
    pub fn gate<D: Storage<Compute = T>>(isa: Isa, gate: &Gate<D>, first: usize, g: &mut [D]) -> Self {
        struct Pass<'a, D: Storage> {
            g: &'a mut [D],
            x: &'a [D],
            coefficients: [&'a [D::Compute]; 3],
            sums: [&'a mut [D::Compute]; 2],
        }
        struct Gated<D: Storage> {
            g: *mut D,
            x: *const D,
            coefficients: [*const D::Compute; 3],
        }
        impl<D: Storage, S: Simd<T = D::Compute>> Terms<S, 2> for Gated<D> {
            #[inline(always)]
            unsafe fn at(&self, at: usize, k: usize) -> [S::V; 2] {
                let [scale, shift, minus] = self.coefficients;
                // SAFETY: the trait's contract.
                unsafe {
                    let (x, g) = (D::load::<S>(self.x.add(at)), self.g.add(at));
                    let y = S::fma(x, S::load(scale.add(k)), S::load(shift.add(k)));
                    let gated = S::where_positive(y, D::load::<S>(g));
                    D::store::<S>(g, gated);
                    [gated, S::fma(gated, S::add(x, S::load(minus.add(k))), S::zero())]
                }
            }
        }
        impl<D: Storage> Kernel<D::Compute> for Pass<'_, D> {
            #[inline(always)]
            unsafe fn with_simd<S: Simd<T = D::Compute>>(self) {
                let Pass { g, x, coefficients, sums } = self;
                let channels = coefficients[2].len();
                assert!(
                    channels.is_multiple_of(S::LANES) && coefficients.iter().all(|c| c.len() == channels)
                );
                assert_eq!(g.len(), x.len());
                let rows = x.len() / channels;
                let coefficients = coefficients.map(<[D::Compute]>::as_ptr);
                let gated = Gated { g: g.as_mut_ptr(), x: x.as_ptr(), coefficients };
                // SAFETY: the CPU has S's instructions; both matrices and all coefficients have the lengths asserted.
                unsafe { column_sums::<S, 2>(rows, channels, sums, &gated) };
            }
        }
        let Gate { x, scale, shift, mean } = *gate;
        let x = &x[first * mean.len()..][..g.len()];
        let minus: Vec<T> = mean.iter().map(|&m| T::of_f64(-m)).collect();
        let mut sums = [0, 1].map(|_| vec![T::ZERO; minus.len()]);
        let [a, b] = &mut sums;
        dispatch(isa, Pass { g, x, coefficients: [scale, shift, &minus], sums: [a, b] });
        GradientSums(sums)
    }

    /// The sums over all blocks, added in order.
    pub fn total(blocks: &[Self]) -> [Vec<f64>; 2] {
        [0, 1].map(|part| {
            let mut total: Vec<f64> = Vec::new();
            for GradientSums(sums) in blocks {
                total.resize(sums[part].len(), 0.0);
                total.iter_mut().zip(&sums[part]).for_each(|(total, sum)| *total += sum.as_f64());
            }
            total
        })
    }
}

/// `Σ g` and `Σ g·(x - mean)` per channel. With `y`, the output of a ReLU, `g` counts where `y` is above zero only.
pub fn channel_sums<T: Element>(
    isa: Isa,
    g: &[T],
    y: Option<&[T]>,
    x: &[T],
    mean: &[T],
) -> (Vec<f64>, Vec<f64>) {
    struct ChannelSums<'a, T> {
        inputs: [&'a [T]; 3],
        mean: &'a [T],
        sums: [&'a mut [T]; 2],
        relu: bool,
    }
    impl<T: Element> Kernel<T> for ChannelSums<'_, T> {
        #[inline(always)]
        unsafe fn with_simd<S: Simd<T = T>>(self) {
            let channels = self.mean.len();
            let [grad, gate, x] = self.inputs.map(|v| v.chunks_exact(channels));
            let [sum_g, sum_gx] = self.sums;
            for ((grad, gate), x) in grad.zip(gate).zip(x) {
                for k in 0..channels {
                    let g = if !self.relu || gate[k] > T::ZERO { grad[k] } else { T::ZERO };
                    sum_g[k] += g;
                    sum_gx[k] += g * (x[k] - self.mean[k]);
                }
            }
        }
    }
    let (channels, relu) = (mean.len(), y.is_some());
    let inputs = [g, y.unwrap_or(g), x];
    let len = block_len(channels);
    let blocks: Vec<[Vec<T>; 2]> = (0..inputs[0].len().div_ceil(len))
        .into_par_iter()
        .map(|i| {
            let inputs = inputs.map(|v| &v[i * len..v.len().min((i + 1) * len)]);
            let mut sums = [vec![T::ZERO; channels], vec![T::ZERO; channels]];
            dispatch(isa, ChannelSums { inputs, mean, sums: sums.each_mut().map(Vec::as_mut_slice), relu });
            sums
        })
        .collect();
    let total = |part: usize| {
        (0..channels).map(|k| blocks.iter().map(|sums| sums[part][k].as_f64()).fold(0.0, f64::add)).collect()
    };
    (total(0), total(1))
}
