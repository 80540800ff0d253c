//! Dot products of bf16 by AVX-512 BF16: two channels per word, summed in f32.

use super::dot_product::{DotProduct, F32};
use crate::simd::traits::{Element, Simd};
use half::bf16;
use std::arch::x86_64::*;

/// Two bf16 per word.
pub struct Bf16;

impl DotProduct for Bf16 {
    type S = <f32 as Element>::Avx512;
    const CHANNELS: usize = 2;
    #[inline(always)]
    unsafe fn dot(x: __m512, w: __m512, sums: __m512) -> __m512 {
        // SAFETY: the caller has the instructions; the vectors' bits are pairs of bf16.
        unsafe {
            let pairs = |v: __m512| std::mem::transmute::<__m512, __m512bh>(v);
            _mm512_dpbf16_ps(sums, pairs(x), pairs(w))
        }
    }
    #[inline(always)]
    unsafe fn load(channels: *const u8) -> __m512 {
        // SAFETY: the caller promises sixteen, which may lie anywhere.
        unsafe { Self::S::load_bf16(channels.cast()) }
    }
    /// Multiplies by 1 and adds, each channel beside a zero: one instruction where widening and adding are two.
    /// Subnormal channels count as zero, as in every product of this instruction.
    #[inline(always)]
    unsafe fn add(channels: *const u8, sums: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let pairs = _mm512_cvtepu16_epi32(_mm256_loadu_si256(channels.cast()));
            let ones = _mm512_set1_epi32(i32::from(bf16::ONE.to_bits()));
            Self::dot(_mm512_castsi512_ps(pairs), _mm512_castsi512_ps(ones), sums)
        }
    }
    #[inline(always)]
    unsafe fn store(channels: *mut u8, values: __m512) {
        // SAFETY: as above.
        unsafe {
            let narrow = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values));
            _mm256_storeu_si256(channels.cast(), narrow);
        }
    }
    #[inline(always)]
    unsafe fn store_both(channels: *mut u8, [first, second]: [__m512; 2]) {
        // SAFETY: as above, twice.
        unsafe {
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(channels.cast(), both);
        }
    }
}

const _: () = assert!(<<f32 as Element>::Avx512 as Simd>::LANES == 16);

/// Two bf16 per word of the input, one f32 per word of the output.
pub struct Bf16ToF32;

type Wide = F32<<f32 as Element>::Avx512>;

impl DotProduct for Bf16ToF32 {
    type S = <f32 as Element>::Avx512;
    const CHANNELS: usize = Bf16::CHANNELS;
    const BYTES: usize = Wide::BYTES;
    #[inline(always)]
    unsafe fn dot(x: __m512, w: __m512, sums: __m512) -> __m512 {
        // SAFETY: the same contract.
        unsafe { Bf16::dot(x, w, sums) }
    }
    #[inline(always)]
    unsafe fn load(channels: *const u8) -> __m512 {
        // SAFETY: the same contract.
        unsafe { Wide::load(channels) }
    }
    #[inline(always)]
    unsafe fn store(channels: *mut u8, values: __m512) {
        // SAFETY: the same contract.
        unsafe { Wide::store(channels, values) }
    }
}
