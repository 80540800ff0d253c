//! Words of 32 bits, the unit inference kernels read activations and weights in: one channel in f32, or two
//! in bf16, which one instruction multiplies and adds up in f32.

pub(crate) use super::simd::MAX_LANES;
use super::simd::{Isa, Kernel, Simd, lanes_and_tile, run};
use candle_core::DType;

/// What a word holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WordType {
    /// One f32.
    #[default]
    F32,
    /// Two bf16, the first in the lower half.
    Bf16,
}

impl WordType {
    /// For maps of `dtype`, if there is one.
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(WordType::F32),
            DType::BF16 => Some(WordType::Bf16),
            _ => None,
        }
    }

    /// Channels a word.
    pub(crate) fn channels(self) -> usize {
        match self {
            WordType::F32 => 1,
            WordType::Bf16 => 2,
        }
    }
}

/// A word of two bf16, rounded to the nearest, ties to even.
#[inline]
pub(crate) fn pair(first: f32, second: f32) -> f32 {
    // As `half::bf16::from_f32` does, but without branches, so that loops over it become vectors.
    let round = |v: f32| match v.to_bits() {
        bits if v.is_nan() => bits >> 16 | 0x40,
        bits => (bits + 0x7fff + (bits >> 16 & 1)) >> 16,
    };
    f32::from_bits(round(second) << 16 | round(first))
}

/// Which words, and the instructions for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    F32(Isa),
    /// Pairs of bf16; made by [`Words::of`] alone, where the CPU has AVX-512 BF16.
    Bf16,
}

impl Words {
    /// For activations of `dtype`; `None` if this machine has no instructions for it.
    pub(crate) fn of(dtype: DType, isa: Isa) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        let pairs = isa == Isa::Avx512 && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        let pairs = false;
        match dtype {
            DType::F32 => Some(Words::F32(isa)),
            DType::BF16 if pairs => Some(Words::Bf16),
            _ => None,
        }
    }

    pub(crate) fn word_type(self) -> WordType {
        match self {
            Words::F32(_) => WordType::F32,
            Words::Bf16 => WordType::Bf16,
        }
    }

    /// Channels a word.
    pub(crate) fn channels(self) -> usize {
        self.word_type().channels()
    }

    /// Sums a vector, and pixels a tile of two vectors.
    pub(crate) fn tile(self) -> (usize, usize) {
        let isa = match self {
            Words::F32(isa) => isa,
            Words::Bf16 => Isa::Avx512,
        };
        lanes_and_tile::<f32>(isa)
    }

    /// Runs `kernel` compiled for these words.
    pub(crate) fn run<K: WordKernel>(self, kernel: K) {
        struct Single<K>(K);
        impl<K: WordKernel> Kernel<f32> for Single<K> {
            #[inline(always)]
            unsafe fn run<S: Simd<T = f32>>(self) {
                // SAFETY: the same contract.
                unsafe { self.0.run::<F32<S>>() }
            }
        }
        match self {
            Words::F32(isa) => run(isa, Single(kernel)),
            #[cfg(target_arch = "x86_64")]
            Words::Bf16 => {
                #[target_feature(enable = "avx512f,avx512bf16")]
                unsafe fn pairs<K: WordKernel>(kernel: K) {
                    // SAFETY: compiled and entered with the instructions.
                    unsafe { kernel.run::<pairs::Bf16>() }
                }
                assert!(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16"));
                // SAFETY: the features were detected on the line above.
                unsafe { pairs(kernel) }
            }
            #[cfg(not(target_arch = "x86_64"))]
            Words::Bf16 => unreachable!("`of` gives these on x86-64 alone"),
        }
    }
}

/// Code that can be compiled for every kind of words.
pub(crate) trait WordKernel {
    /// Runs the kernel. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The CPU has `W`'s instructions.
    unsafe fn run<W: Word>(self);
}

/// A kind of words. Vectors of them are moved about by `S`, whatever they hold; sums are always f32.
///
/// # Safety
/// Every method may only be called where the CPU has the instructions; pointers to channels need `S::LANES`
/// of them, of two or four bytes each, with any alignment.
pub(crate) trait Word {
    type S: Simd<T = f32>;
    /// Channels a word.
    const CHANNELS: usize;
    /// `sums + x · w`, over all channels of each word.
    unsafe fn dot(x: V<Self>, w: V<Self>, sums: V<Self>) -> V<Self>;
    /// As many channels as there are sums in a vector, widened to f32.
    unsafe fn load(channels: *const u16) -> V<Self>;
    /// The same back, rounded to the nearest, ties to even.
    unsafe fn store(channels: *mut u16, sums: V<Self>);
}

/// A vector of words or of f32 sums.
pub(crate) type V<W> = <<W as Word>::S as Simd>::V;

/// One f32 a word.
struct F32<S>(std::marker::PhantomData<S>);

impl<S: Simd<T = f32>> Word for F32<S> {
    type S = S;
    const CHANNELS: usize = 1;
    #[inline(always)]
    unsafe fn dot(x: S::V, w: S::V, sums: S::V) -> S::V {
        // SAFETY: the same contract.
        unsafe { S::fma(x, w, sums) }
    }
    #[inline(always)]
    unsafe fn load(channels: *const u16) -> S::V {
        // SAFETY: the same contract.
        unsafe { S::load(channels.cast()) }
    }
    #[inline(always)]
    unsafe fn store(channels: *mut u16, sums: S::V) {
        // SAFETY: the same contract.
        unsafe { S::store(channels.cast(), sums) }
    }
}

#[cfg(target_arch = "x86_64")]
mod pairs {
    use super::Word;
    use crate::kernels::simd::{Element, Simd};
    use std::arch::x86_64::*;

    /// Two bf16 a word.
    pub(super) struct Bf16;

    impl Word for Bf16 {
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
        unsafe fn load(channels: *const u16) -> __m512 {
            // SAFETY: the caller promises sixteen; bf16 is the upper half of f32.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(channels.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn store(channels: *mut u16, sums: __m512) {
            // SAFETY: as above.
            unsafe {
                let narrow = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(sums));
                _mm256_storeu_si256(channels.cast(), narrow);
            }
        }
    }

    const _: () = assert!(<<f32 as Element>::Avx512 as Simd>::LANES == 16);
}
