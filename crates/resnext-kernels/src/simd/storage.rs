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
