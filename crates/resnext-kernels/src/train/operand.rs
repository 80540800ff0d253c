//! Operands of training's kernels: values in memory, and the function of them that is computed while they are packed.

use super::per_channel::{combine, scale_shift};
use crate::simd::dispatch::Isa;
use crate::simd::traits::{Element, Simd, Storage};

/// A convolution's raw output `x` (pixels, channels) and the batch norm after it, an affine function per channel:
/// `x·scale + shift`.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a, D: Storage> {
    /// The convolution's raw output, (pixels, channels).
    pub x: &'a [D],
    /// The scale of each channel.
    pub scale: &'a [D::Compute],
    /// The shift of each channel.
    pub shift: &'a [D::Compute],
}

/// The batch norm and ReLU that a gradient passes on its way back: it is the gradient of `max(x·scale + shift, 0)`,
/// where `x` is a convolution's raw output (pixels, channels).
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a, D: Storage> {
    /// The convolution's raw output, (pixels, channels).
    pub x: &'a [D],
    /// The scale of each channel.
    pub scale: &'a [D::Compute],
    /// The shift of each channel.
    pub shift: &'a [D::Compute],
    /// The mean of each channel of `x`.
    pub mean: &'a [f64],
}

/// An operand (pixels, channels): values in memory, and the function of them that is computed while they are packed.
#[derive(Debug, Clone, Copy)]
pub enum Operand<'a, D: Storage> {
    /// The values as they are.
    Plain(&'a [D]),
    /// `max(x·scale + shift, 0)` per channel: an activation of which only the convolution before it is kept.
    Normalised {
        /// The convolution's raw output, (pixels, channels).
        x: &'a [D],
        /// The scale of each channel.
        scale: &'a [D::Compute],
        /// The shift of each channel.
        shift: &'a [D::Compute],
    },
    /// `a·g + b·x + d` per channel: the gradient of a convolution's raw output `x`, from the gradient `g` of the batch
    /// norm's output.
    Gradient {
        /// The gradient of the batch norm's output, (pixels, channels).
        g: &'a [D],
        /// The convolution's raw output, (pixels, channels).
        x: &'a [D],
        /// The coefficient of `g`, for each channel.
        a: &'a [D::Compute],
        /// The coefficient of `x`, for each channel.
        b: &'a [D::Compute],
        /// The constant term of each channel.
        d: &'a [D::Compute],
    },
}

impl<D: Storage> Operand<'_, D> {
    /// The number of elements, pixels times channels.
    pub fn len(&self) -> usize {
        match self {
            Operand::Plain(x) | Operand::Normalised { x, .. } => x.len(),
            Operand::Gradient { g, x, .. } => g.len().min(x.len()),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values as they are multiplied, for kernels that read plain values only.
    pub fn values(&self, isa: Isa) -> Vec<D::Compute> {
        match *self {
            Operand::Plain(x) => D::widen_all(x).into_owned(),
            Operand::Normalised { x, scale, shift } => scale_shift(isa, &D::widen_all(x), scale, shift, true),
            Operand::Gradient { g, x, a, b, d } => {
                combine(isa, &D::widen_all(g), &D::widen_all(x), [a, b, d])
            }
        }
    }
}

/// How a vector of an operand is computed. This is a trait so that packing is compiled separately for each operand.
pub trait Source<T: Element>: Copy {
    /// The vector of channels from `c` on of the pixel that starts at element `at`.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions and those elements exist.
    unsafe fn vector<S: Simd<T = T>>(self, at: usize, c: usize) -> S::V;
}

#[derive(Clone, Copy)]
pub struct Plain<'a, D>(pub &'a [D]);
#[derive(Clone, Copy)]
pub struct Normalised<'a, D: Storage>(pub &'a [D], pub [&'a [D::Compute]; 2]);
#[derive(Clone, Copy)]
pub struct Gradient<'a, D: Storage>(pub [&'a [D]; 2], pub [&'a [D::Compute]; 3]);

impl<D: Storage> Source<D::Compute> for Plain<'_, D> {
    #[inline(always)]
    unsafe fn vector<S: Simd<T = D::Compute>>(self, at: usize, c: usize) -> S::V {
        // SAFETY: the trait's contract.
        unsafe { D::load::<S>(self.0.as_ptr().add(at + c)) }
    }
}

impl<D: Storage> Source<D::Compute> for Normalised<'_, D> {
    #[inline(always)]
    unsafe fn vector<S: Simd<T = D::Compute>>(self, at: usize, c: usize) -> S::V {
        let Normalised(x, [scale, shift]) = self;
        // SAFETY: the trait's contract; scale and shift have every channel.
        unsafe {
            let y = S::fma(
                D::load::<S>(x.as_ptr().add(at + c)),
                S::load(scale.as_ptr().add(c)),
                S::load(shift.as_ptr().add(c)),
            );
            S::max(y, S::zero())
        }
    }
}

impl<D: Storage> Source<D::Compute> for Gradient<'_, D> {
    #[inline(always)]
    unsafe fn vector<S: Simd<T = D::Compute>>(self, at: usize, c: usize) -> S::V {
        let Gradient([g, x], [a, b, d]) = self;
        // SAFETY: as above.
        unsafe {
            let rest = S::fma(
                D::load::<S>(x.as_ptr().add(at + c)),
                S::load(b.as_ptr().add(c)),
                S::load(d.as_ptr().add(c)),
            );
            S::fma(D::load::<S>(g.as_ptr().add(at + c)), S::load(a.as_ptr().add(c)), rest)
        }
    }
}
