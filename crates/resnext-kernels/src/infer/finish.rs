//! The end of a sum: scale, bias, residual and ReLU, for kernels that compute whole vectors of channels.

use super::dot_product::{DotProduct, V};
use super::job::Epilogue;
use crate::simd::traits::Simd;

/// An [`Epilogue`], each number in all lanes of a vector.
pub struct Finish<W: DotProduct> {
    least: V<W>,
    residual_step: V<W>,
    offset: V<W>,
}

impl<W: DotProduct> Finish<W> {
    /// # Safety
    /// The CPU has `W`'s instructions.
    #[inline(always)]
    pub unsafe fn new(epilogue: &Epilogue) -> Self {
        let Epilogue { least, residual_step, offset } = epilogue;
        // SAFETY: the same contract.
        unsafe {
            Finish {
                least: W::S::splat(least),
                residual_step: W::S::splat(residual_step),
                offset: W::S::splat(offset),
            }
        }
    }

    /// The outputs of a vector of sums: [`scaled`](Self::scaled), then [`bounded`](Self::bounded).
    ///
    /// # Safety
    /// That of both.
    #[inline(always)]
    pub unsafe fn outputs(
        &self,
        sums: V<W>,
        constants: *const f32,
        scales: usize,
        residual: Option<*const u8>,
    ) -> V<W> {
        // SAFETY: the same contract.
        unsafe { self.bounded(self.scaled(sums, constants, scales), residual) }
    }

    /// Sums with their bias, in f32. Sums that are to be scaled have no bias yet: `constants` are the channels' biases, and
    /// their scales lie `scales` words after them.
    ///
    /// # Safety
    /// The CPU has `W`'s instructions; where sums are scaled, there are a vector of constants and of scales.
    #[inline(always)]
    pub unsafe fn scaled(&self, sums: V<W>, constants: *const f32, scales: usize) -> V<W> {
        if !W::SCALED {
            return sums;
        }
        // SAFETY: the same contract.
        unsafe {
            let bias = W::S::add(W::S::load(constants), self.offset);
            W::fused(W::number(sums), W::S::load(constants.add(scales)), bias)
        }
    }

    /// Adds a residual, if there is one, and applies ReLU.
    ///
    /// # Safety
    /// The CPU has `W`'s instructions; there is a vector of residuals.
    #[inline(always)]
    pub unsafe fn bounded(&self, mut sums: V<W>, residual: Option<*const u8>) -> V<W> {
        // SAFETY: the same contract.
        unsafe {
            if let Some(x) = residual {
                sums = match W::SCALED {
                    true => W::fused(W::load(x), self.residual_step, sums),
                    false => W::add(x, sums),
                };
            }
            W::S::max(sums, self.least)
        }
    }
}
