//! The types that maps are stored as: f32 and f64, which are computed in themselves, and bf16, which is computed in f32.
//!
//! Training's kernels load and store maps through [`Storage`] alone, one vector at a time, so one kernel serves all types.
//! Maps of bf16 take half the memory and half the traffic, with the arithmetic of f32.
//!
//! An element is rounded when it is stored, and everything computed from it later starts from the rounded value: batch
//! norm's statistics, and the sums for its gradient, are taken over stored values. So a normalised map has exactly the
//! statistics it was normalised by, and batch norm's gradient sums to what its formula says. With sums over unrounded
//! values neither would hold.

use super::traits::{Simd, Storage};
use half::bf16;
use rayon::prelude::*;
use std::borrow::Cow;

macro_rules! identity {
    ($t:ty) => {
        impl Storage for $t {
            type Compute = $t;
            #[inline(always)]
            unsafe fn load<S: Simd<T = $t>>(p: *const $t) -> S::V {
                // SAFETY: the same contract.
                unsafe { S::load(p) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd<T = $t>>(p: *mut $t, v: S::V) {
                // SAFETY: the same contract.
                unsafe { S::store(p, v) }
            }
            fn unrounded(p: *mut $t) -> Option<*mut $t> {
                Some(p)
            }
            #[inline(always)]
            fn widen(self) -> $t {
                self
            }
            #[inline(always)]
            fn narrow(v: $t) -> $t {
                v
            }
            fn widen_all(values: &[$t]) -> Cow<'_, [$t]> {
                Cow::Borrowed(values)
            }
            fn narrow_all(values: Vec<$t>) -> Vec<$t> {
                values
            }
        }
    };
}
identity!(f32);
identity!(f64);

/// Elements per task.
const CHUNK: usize = 1 << 14;

impl Storage for bf16 {
    type Compute = f32;
    #[inline(always)]
    unsafe fn load<S: Simd<T = f32>>(p: *const bf16) -> S::V {
        // SAFETY: the same contract.
        unsafe { S::load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd<T = f32>>(p: *mut bf16, v: S::V) {
        // SAFETY: the same contract.
        unsafe { S::store_bf16(p, v) }
    }
    fn unrounded(_: *mut bf16) -> Option<*mut f32> {
        None
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    /// The rounding of `half::bf16::from_f32`, but without branches, so that loops over it vectorise.
    #[inline(always)]
    fn narrow(v: f32) -> bf16 {
        let bits = v.to_bits();
        let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        bf16::from_bits(if v.is_nan() { bits >> 16 | 0x40 } else { nearest } as u16)
    }
    fn widen_all(values: &[bf16]) -> Cow<'_, [f32]> {
        Cow::Owned(values.par_iter().with_min_len(CHUNK).map(|&x| x.widen()).collect())
    }
    fn narrow_all(values: Vec<f32>) -> Vec<bf16> {
        values.par_iter().with_min_len(CHUNK).map(|&x| bf16::narrow(x)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::dispatch::{Isa, dispatch, lanes};
    use crate::simd::traits::Kernel;

    /// A slice from f32 to bf16, or back.
    enum Move<'a> {
        Round(&'a [f32], &'a mut [bf16]),
        Widen(&'a [bf16], &'a mut [f32]),
    }

    impl Kernel<f32> for Move<'_> {
        #[inline(always)]
        unsafe fn with_simd<S: Simd<T = f32>>(self) {
            // SAFETY: the CPU has S's instructions; slices are of one length, which LANES divides.
            unsafe {
                match self {
                    Move::Round(from, to) => {
                        for i in (0..to.len()).step_by(S::LANES) {
                            bf16::store::<S>(to[i..].as_mut_ptr(), S::load(from[i..].as_ptr()));
                        }
                    }
                    Move::Widen(from, to) => {
                        for i in (0..to.len()).step_by(S::LANES) {
                            S::store(to[i..].as_mut_ptr(), bf16::load::<S>(from[i..].as_ptr()));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_rounds_and_widens_as_half_does() {
        // Every bf16, and values just below, at and just above the midpoint to the next: this includes ties, infinities, the
        // largest finite value, subnormals and NaN.
        let parts = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        let all: Vec<f32> = parts
            .into_iter()
            .flat_map(|part| (0..=u16::MAX).map(move |bits| f32::from_bits((bits as u32) << 16 | part)))
            .collect();
        let want: Vec<u16> = all.iter().map(|&v| bf16::from_f32(v).to_bits()).collect();
        let scalar: Vec<u16> = bf16::narrow_all(all.clone()).iter().map(|v| v.to_bits()).collect();
        assert_eq!(scalar, want);
        let halves: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        for isa in Isa::available() {
            assert!(all.len().is_multiple_of(lanes::<f32>(isa)));
            let mut got = vec![bf16::ZERO; all.len()];
            dispatch(isa, Move::Round(&all, &mut got));
            for ((got, want), from) in got.iter().zip(&want).zip(&all) {
                assert_eq!(got.to_bits(), *want, "{isa:?} {:x}", from.to_bits());
            }
            let mut wide = vec![0f32; halves.len()];
            dispatch(isa, Move::Widen(&halves, &mut wide));
            for (wide, half) in wide.iter().zip(&halves) {
                assert_eq!(wide.to_bits(), (half.to_bits() as u32) << 16, "{isa:?}");
            }
        }
    }
}
