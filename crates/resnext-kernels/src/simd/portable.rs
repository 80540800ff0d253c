//! Vectors in plain Rust.

use super::traits::{Element, Simd};

/// Arrays of eight elements, which the compiler turns into the vectors the target has.
#[derive(Clone, Copy)]
pub struct Portable<T>(std::marker::PhantomData<T>);

impl<T: Element> Simd for Portable<T> {
    type T = T;
    type V = [T; 8];
    type Index = [u8; 8];
    const LANES: usize = 8;
    const TILE: usize = 4;
    const PIXELS: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> [T; 8] {
        [T::ZERO; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const T) -> [T; 8] {
        // SAFETY: the caller promises LANES elements; an array has an element's alignment.
        unsafe { *p.cast() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut T, v: [T; 8]) {
        // SAFETY: as for load.
        unsafe { *p.cast() = v }
    }
    #[inline(always)]
    unsafe fn splat(p: *const T) -> [T; 8] {
        // SAFETY: the caller promises one element.
        unsafe { [*p; 8] }
    }
    #[inline(always)]
    unsafe fn fma(a: [T; 8], b: [T; 8], mut acc: [T; 8]) -> [T; 8] {
        // Not `mul_add`, which is a library call per element without the instruction.
        for i in 0..8 {
            acc[i] += a[i] * b[i];
        }
        acc
    }
    #[inline(always)]
    unsafe fn fnma(a: [T; 8], b: [T; 8], acc: [T; 8]) -> [T; 8] {
        std::array::from_fn(|i| acc[i] - a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn add(mut a: [T; 8], b: [T; 8]) -> [T; 8] {
        for i in 0..8 {
            a[i] += b[i];
        }
        a
    }
    #[inline(always)]
    unsafe fn sub(a: [T; 8], b: [T; 8]) -> [T; 8] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn max(mut a: [T; 8], b: [T; 8]) -> [T; 8] {
        for i in 0..8 {
            // A NaN in `a` stays, as `b` is never NaN.
            if a[i] < b[i] {
                a[i] = b[i];
            }
        }
        a
    }
    #[inline(always)]
    unsafe fn where_positive(y: [T; 8], v: [T; 8]) -> [T; 8] {
        std::array::from_fn(|i| if y[i] > T::ZERO { v[i] } else { T::ZERO })
    }
    #[inline(always)]
    unsafe fn index(lane_of: impl Fn(usize) -> usize) -> [u8; 8] {
        let mut index = [0; 8];
        for i in 0..8 {
            index[i] = lane_of(i) as u8;
        }
        index
    }
    #[inline(always)]
    unsafe fn permute(v: [T; 8], index: [u8; 8]) -> [T; 8] {
        std::array::from_fn(|i| v[index[i] as usize & 7])
    }
}
