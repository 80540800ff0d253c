//! The end of a residual block: ReLU of the normalised path plus the shortcut, and its gradient.

use super::batch_norm::{GradientSums, Terms, column_sums};
use super::blocks::blocks;
use super::operand::Affine;
use crate::simd::dispatch::{Isa, dispatch, lanes};
use crate::simd::traits::{Element, Kernel, Simd, Storage};

/// The shortcut branch of a residual block.
#[derive(Debug, Clone, Copy)]
pub enum Shortcut<'a, D: Storage> {
    /// There is none: the path alone.
    None,
    /// The block's input.
    Identity(&'a [D]),
    /// A projection of the block's input, before its batch norm.
    Projection(Affine<'a, D>),
}

/// `max(path + shortcut, 0)`, (pixels, channels).
pub fn residual_relu<D: Storage>(
    isa: Isa,
    channels: usize,
    path: Affine<D>,
    shortcut: Shortcut<D>,
) -> Vec<D> {
    struct Sum<'a, D: Storage> {
        channels: usize,
        first: usize,
        count: usize,
        path: Affine<'a, D>,
        shortcut: Shortcut<'a, D>,
        out: *mut D,
    }
    impl<D: Storage> Kernel<D::Compute> for Sum<'_, D> {
        #[inline(always)]
        unsafe fn with_simd<S: Simd<T = D::Compute>>(self) {
            let Sum { channels, first, count, path, shortcut, out } = self;
            // SAFETY: `residual_relu` asserted all lengths; the block is this task's.
            unsafe {
                let affine = |Affine { x, scale, shift }: Affine<D>, at: usize, k: usize| {
                    let (scale, shift) = (scale.as_ptr().add(k), shift.as_ptr().add(k));
                    S::fma(D::load::<S>(x.as_ptr().add(at)), S::load(scale), S::load(shift))
                };
                for row in 0..count {
                    for k in (0..channels).step_by(S::LANES) {
                        let at = (first + row) * channels + k;
                        let y = affine(path, at, k);
                        let y = match shortcut {
                            Shortcut::None => y,
                            Shortcut::Identity(x) => S::add(y, D::load::<S>(x.as_ptr().add(at))),
                            Shortcut::Projection(other) => S::add(y, affine(other, at, k)),
                        };
                        D::store::<S>(out.add(row * channels + k), S::max(y, S::zero()));
                    }
                }
            }
        }
    }
    let len = path.x.len();
    let whole = |affine: &Affine<D>| {
        affine.x.len() == len && [affine.scale, affine.shift].iter().all(|c| c.len() == channels)
    };
    assert!(
        channels.is_multiple_of(lanes::<D::Compute>(isa)) && len.is_multiple_of(channels) && whole(&path)
    );
    assert!(match &shortcut {
        Shortcut::None => true,
        Shortcut::Identity(x) => x.len() == len,
        Shortcut::Projection(affine) => whole(affine),
    });
    let make = |first, count, out| dispatch(isa, Sum { channels, first, count, path, shortcut, out });
    // SAFETY: LANES divides the channels, so all of each pixel is written.
    unsafe { blocks(len / channels, channels, make) }.0
}

/// Batch norm's two sums per channel: `Σ g` and `Σ g·(x - mean)`.
pub type Totals = [Vec<f64>; 2];

/// From a block's output `y` and its gradient: the gradient of `path + shortcut`, and batch norm's sums for the path's last
/// convolution, given as its raw output and mean, and for the shortcut's if it has one.
pub fn residual_relu_gradient<D: Storage>(
    isa: Isa,
    channels: usize,
    (y, gradient): (&[D], &[D]),
    path: (&[D], &[f64]),
    shortcut: Option<(&[D], &[f64])>,
) -> (Vec<D>, Totals, Option<Totals>) {
    struct GatedGradient<'a, D: Storage> {
        channels: usize,
        first: usize,
        count: usize,
        y: &'a [D],
        gradient: &'a [D],
        /// Raw outputs and negated means; without a projection, both entries are the path's.
        x: [&'a [D]; 2],
        minus: [&'a [D::Compute]; 2],
        out: *mut D,
    }
    impl<D: Storage> GatedGradient<'_, D> {
        /// Gates a vector of the gradient, stores it and returns it.
        ///
        /// # Safety
        /// The CPU has `S`'s instructions, and the block has such a vector.
        #[inline(always)]
        unsafe fn gated<S: Simd<T = D::Compute>>(&self, at: usize) -> S::V {
            let from = self.first * self.channels + at;
            // SAFETY: the function's contract.
            unsafe {
                let y = D::load::<S>(self.y.as_ptr().add(from));
                let g = S::where_positive(y, D::load::<S>(self.gradient.as_ptr().add(from)));
                D::store::<S>(self.out.add(at), g);
                g
            }
        }

        /// `g·(x - mean)` for a vector of convolution `i`'s raw output.
        ///
        /// # Safety
        /// The same as for `gated`, and `k` is the vector's first channel.
        #[inline(always)]
        unsafe fn centred<S: Simd<T = D::Compute>>(&self, g: S::V, i: usize, at: usize, k: usize) -> S::V {
            let from = self.first * self.channels + at;
            // SAFETY: the function's contract.
            unsafe {
                let x = D::load::<S>(self.x[i].as_ptr().add(from));
                S::fma(g, S::add(x, S::load(self.minus[i].as_ptr().add(k))), S::zero())
            }
        }
    }
    impl<D: Storage, S: Simd<T = D::Compute>> Terms<S, 2> for GatedGradient<'_, D> {
        #[inline(always)]
        unsafe fn at(&self, at: usize, k: usize) -> [S::V; 2] {
            // SAFETY: the trait's contract.
            unsafe {
                let g = self.gated::<S>(at);
                [g, self.centred::<S>(g, 0, at, k)]
            }
        }
    }
    impl<D: Storage, S: Simd<T = D::Compute>> Terms<S, 3> for GatedGradient<'_, D> {
        #[inline(always)]
        unsafe fn at(&self, at: usize, k: usize) -> [S::V; 3] {
            // SAFETY: the trait's contract.
            unsafe {
                let g = self.gated::<S>(at);
                [g, self.centred::<S>(g, 0, at, k), self.centred::<S>(g, 1, at, k)]
            }
        }
    }
    struct Summed<'a, D: Storage>(GatedGradient<'a, D>, [&'a mut [D::Compute]; 3]);
    impl<D: Storage> Kernel<D::Compute> for Summed<'_, D> {
        #[inline(always)]
        unsafe fn with_simd<S: Simd<T = D::Compute>>(self) {
            let Summed(gate, [a, b, c]) = self;
            let GatedGradient { channels, count, .. } = gate;
            // SAFETY: `residual_relu_gradient` asserted all lengths; the block is this task's.
            unsafe {
                match c.is_empty() {
                    true => column_sums::<S, 2>(count, channels, [a, b], &gate),
                    false => column_sums::<S, 3>(count, channels, [a, b, c], &gate),
                }
            }
        }
    }
    let len = y.len();
    let (second, second_mean) = shortcut.unwrap_or(path);
    assert!(channels.is_multiple_of(lanes::<D::Compute>(isa)) && len.is_multiple_of(channels));
    assert!(gradient.len() == len && path.0.len() == len && second.len() == len);
    assert!(path.1.len() == channels && second_mean.len() == channels);
    let minus =
        [path.1, second_mean].map(|mean| mean.iter().map(|&m| D::Compute::of_f64(-m)).collect::<Vec<_>>());
    let make = |first, count, out| {
        let zeros = |wanted: bool| vec![D::Compute::ZERO; if wanted { channels } else { 0 }];
        let mut sums = [zeros(true), zeros(true), zeros(shortcut.is_some())];
        let [a, b, c] = &mut sums;
        let minus = minus.each_ref().map(Vec::as_slice);
        let x = [path.0, second];
        dispatch(
            isa,
            Summed(GatedGradient { channels, first, count, y, gradient, x, minus, out }, [a, b, c]),
        );
        let [a, b, c] = sums;
        (GradientSums([a.clone(), b]), GradientSums([a, c]))
    };
    // SAFETY: LANES divides the channels, so all of each pixel is written.
    let (g, sums) = unsafe { blocks(len / channels, channels, make) };
    let (first, second): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
    (g, GradientSums::total(&first), shortcut.map(|_| GradientSums::total(&second)))
}
