//! Words of 32 bits, the unit inference kernels read activations and weights in: one channel in f32, two in bf16,
//! which one instruction multiplies and adds up in f32, or four in 8 bits, added up in 32.

use super::quantization::Quantization;
use crate::simd::dispatch::{Isa, dispatch, lanes_and_tile};
use crate::simd::traits::{Kernel, Simd};

/// What a word holds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum MapType {
    /// One f32.
    #[default]
    F32,
    /// Two bf16, the first in the lower half.
    Bf16,
    /// Four u8, the first in the lowest byte.
    U8(Quantization),
}

impl MapType {
    /// Channels a word.
    pub fn channels(self) -> usize {
        match self {
            MapType::F32 => 1,
            MapType::Bf16 => 2,
            MapType::U8(_) => 4,
        }
    }
}

/// The bits of bf16, two a word.
#[inline(always)]
pub fn halves(words: &[f32]) -> &[u16] {
    // SAFETY: u16 has no invalid bits, and its alignment is the smaller one.
    unsafe { words.align_to().1 }
}

/// As [`halves`], to be written.
#[inline(always)]
pub fn halves_mut(words: &mut [f32]) -> &mut [u16] {
    // SAFETY: no type involved has invalid bits, and u16's alignment is the smaller one.
    unsafe { words.align_to_mut().1 }
}

/// The bytes of words, to be written.
#[inline(always)]
pub fn bytes_mut(words: &mut [f32]) -> &mut [u8] {
    // SAFETY: no type involved has invalid bits, and u8's alignment is the smaller one.
    unsafe { words.align_to_mut().1 }
}

/// A word of two bf16, rounded to the nearest, ties to even.
#[inline]
pub fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(u32::from(bf16_bits(second)) << 16 | u32::from(bf16_bits(first)))
}

/// The two bf16 of a word.
#[inline(always)]
pub fn unpair(word: f32) -> [f32; 2] {
    [word.to_bits() << 16, word.to_bits() & 0xffff_0000].map(f32::from_bits)
}

/// A bf16, rounded to the nearest, ties to even.
#[inline]
pub fn bf16_bits(v: f32) -> u16 {
    // As `half::bf16::from_f32` does, but without branches, so that loops over it become vectors.
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if v.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16
}

/// A word of four whole numbers of 8 bits, signed.
pub fn quad(numbers: [f32; 4]) -> f32 {
    f32::from_bits(u32::from_le_bytes(numbers.map(|v| (v as i8).to_le_bytes()[0])))
}

/// Which words, and the instructions for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    F32(Isa),
    /// Pairs of bf16; made by [`Precision::bf16`] alone, where the CPU has AVX-512 BF16.
    Bf16,
    /// The same, of which f32 is written; made by [`Precision::writing_f32`] alone, of those.
    Bf16ToF32,
    /// Four channels of u8, or weights of i8; made by [`Precision::int8`] alone, where the CPU has AVX-512 VNNI.
    Int8,
}

impl Precision {
    /// bf16 maps; `None` if this machine has no instructions for them.
    pub fn bf16(isa: Isa) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 && is_x86_feature_detected!("avx512bf16") {
            return Some(Precision::Bf16);
        }
        let _ = isa;
        None
    }

    /// int8 maps; `None` if this machine has no instructions for them.
    pub fn int8(isa: Isa) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 && is_x86_feature_detected!("avx512vnni") {
            return Some(Precision::Int8);
        }
        let _ = isa;
        None
    }

    /// The same to read, and f32 to write, of f32 or bf16.
    pub fn writing_f32(self) -> Self {
        if self == Precision::Bf16 { Precision::Bf16ToF32 } else { self }
    }

    /// Channels a word that is read.
    pub fn channels(self) -> usize {
        match self {
            Precision::F32(_) => 1,
            Precision::Bf16 | Precision::Bf16ToF32 => 2,
            Precision::Int8 => 4,
        }
    }

    /// Channels a word that is written.
    pub fn written(self) -> usize {
        if self == Precision::Bf16ToF32 { 1 } else { self.channels() }
    }

    /// Sums a vector, and pixels a tile of two vectors.
    pub fn tile(self) -> (usize, usize) {
        let isa = match self {
            Precision::F32(isa) => isa,
            Precision::Bf16 | Precision::Bf16ToF32 | Precision::Int8 => Isa::Avx512,
        };
        lanes_and_tile::<f32>(isa)
    }

    /// Runs `kernel` compiled for these words.
    pub fn dispatch<K: DotKernel>(self, kernel: K) {
        struct Single<K>(K);
        impl<K: DotKernel> Kernel<f32> for Single<K> {
            #[inline(always)]
            unsafe fn with_simd<S: Simd<T = f32>>(self) {
                // SAFETY: the same contract.
                unsafe { self.0.with_dot::<F32<S>>() }
            }
        }
        match self {
            Precision::F32(isa) => dispatch(isa, Single(kernel)),
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16 | Precision::Bf16ToF32 => {
                #[target_feature(enable = "avx512f,avx512bf16")]
                unsafe fn pairs<K: DotKernel, W: DotProduct>(kernel: K) {
                    // SAFETY: compiled and entered with the instructions of both kinds of pairs, one of which W is.
                    unsafe { kernel.with_dot::<W>() }
                }
                assert!(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16"));
                match self {
                    // SAFETY: the features were detected above.
                    Precision::Bf16 => unsafe { pairs::<_, pairs::Bf16>(kernel) },
                    // SAFETY: as above.
                    _ => unsafe { pairs::<_, pairs::Bf16ToF32>(kernel) },
                }
            }
            #[cfg(target_arch = "x86_64")]
            Precision::Int8 => {
                #[target_feature(enable = "avx512f,avx512vnni")]
                unsafe fn quads<K: DotKernel>(kernel: K) {
                    // SAFETY: compiled and entered with the instructions.
                    unsafe { kernel.with_dot::<quads::Int8>() }
                }
                assert!(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni"));
                // SAFETY: the features were detected on the line above.
                unsafe { quads(kernel) }
            }
            #[cfg(not(target_arch = "x86_64"))]
            Precision::Bf16 | Precision::Bf16ToF32 | Precision::Int8 => {
                unreachable!("`bf16` and `int8` give these on x86-64 alone")
            }
        }
    }
}

/// Code that can be compiled for every kind of words.
pub trait DotKernel {
    /// Runs the kernel. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The CPU has `W`'s instructions.
    unsafe fn with_dot<W: DotProduct>(self);
}

/// A kind of words. Vectors of them are moved about by `S`, whatever they hold; so are sums, f32 or of as many bits.
///
/// # Safety
/// Every method may only be called where the CPU has the instructions; pointers to channels need `S::LANES`
/// of them, of [`BYTES`](Self::BYTES) each, with any alignment.
pub trait DotProduct {
    type S: Simd<T = f32>;
    /// Channels a word that is read.
    const CHANNELS: usize;
    /// Of a channel that is written, or of a residual.
    const BYTES: usize = 4 / Self::CHANNELS;
    /// Whether a sum has to be multiplied by a number of its output channel's.
    const SCALED: bool = false;
    /// `sums + x · w`, over all channels of each word.
    unsafe fn dot(x: V<Self>, w: V<Self>, sums: V<Self>) -> V<Self>;
    /// What sums are in f32.
    #[inline(always)]
    unsafe fn number(sums: V<Self>) -> V<Self> {
        sums
    }
    /// As many channels as there are sums in a vector, widened to f32.
    unsafe fn load(channels: *const u8) -> V<Self>;
    /// `sums` plus as many channels, widened. What is below the normal numbers may count as zero.
    #[inline(always)]
    unsafe fn add(channels: *const u8, sums: V<Self>) -> V<Self> {
        // SAFETY: the same contract.
        unsafe { Self::S::add(sums, Self::load(channels)) }
    }
    /// The reverse of `load`: rounded to the nearest, ties to even, or to the largest there is. Where there is nothing below
    /// zero, no value may be.
    unsafe fn store(channels: *mut u8, values: V<Self>);
    /// Two vectors' channels, one behind the other.
    #[inline(always)]
    unsafe fn store_both(channels: *mut u8, values: [V<Self>; 2]) {
        // SAFETY: the caller promises two vectors' channels.
        unsafe {
            Self::store(channels, values[0]);
            Self::store(channels.add(Self::S::LANES * Self::BYTES), values[1]);
        }
    }
    /// One channel, widened.
    unsafe fn load_one(channel: *const u8) -> f32;
    /// The same back, as `store` does.
    unsafe fn store_one(channel: *mut u8, value: f32);
}

/// A vector of words or of f32 sums.
pub type V<W> = <<W as DotProduct>::S as Simd>::V;

/// One f32 a word.
struct F32<S>(std::marker::PhantomData<S>);

impl<S: Simd<T = f32>> DotProduct for F32<S> {
    type S = S;
    const CHANNELS: usize = 1;
    #[inline(always)]
    unsafe fn dot(x: S::V, w: S::V, sums: S::V) -> S::V {
        // SAFETY: the same contract.
        unsafe { S::fma(x, w, sums) }
    }
    #[inline(always)]
    unsafe fn load(channels: *const u8) -> S::V {
        // SAFETY: the same contract.
        unsafe { S::load(channels.cast()) }
    }
    #[inline(always)]
    unsafe fn store(channels: *mut u8, values: S::V) {
        // SAFETY: the same contract.
        unsafe { S::store(channels.cast(), values) }
    }
    #[inline(always)]
    unsafe fn load_one(channel: *const u8) -> f32 {
        // SAFETY: the same contract.
        unsafe { channel.cast::<f32>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_one(channel: *mut u8, value: f32) {
        // SAFETY: the same contract.
        unsafe { channel.cast::<f32>().write_unaligned(value) }
    }
}

#[cfg(target_arch = "x86_64")]
mod pairs {
    use super::{DotProduct, bf16_bits};
    use crate::simd::traits::{Element, Simd};
    use std::arch::x86_64::*;

    /// Two bf16 a word.
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
        /// As products with 1, beside products of zeros: quicker than to shift and to add. What is below the normal numbers
        /// counts as zero, as in all products.
        #[inline(always)]
        unsafe fn add(channels: *const u8, sums: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe {
                let pairs = _mm512_cvtepu16_epi32(_mm256_loadu_si256(channels.cast()));
                let ones = _mm512_set1_epi32(i32::from(bf16_bits(1.0)));
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
        #[inline(always)]
        unsafe fn load_one(channel: *const u8) -> f32 {
            // SAFETY: the caller promises two bytes.
            f32::from_bits(u32::from(unsafe { channel.cast::<u16>().read_unaligned() }) << 16)
        }
        #[inline(always)]
        unsafe fn store_one(channel: *mut u8, value: f32) {
            // SAFETY: as above.
            unsafe { channel.cast::<u16>().write_unaligned(bf16_bits(value)) }
        }
    }

    const _: () = assert!(<<f32 as Element>::Avx512 as Simd>::LANES == 16);

    /// Two bf16 a word that is read, f32 to be written.
    pub struct Bf16ToF32;

    type Wide = super::F32<<f32 as Element>::Avx512>;

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
        #[inline(always)]
        unsafe fn load_one(channel: *const u8) -> f32 {
            // SAFETY: the same contract.
            unsafe { Wide::load_one(channel) }
        }
        #[inline(always)]
        unsafe fn store_one(channel: *mut u8, value: f32) {
            // SAFETY: the same contract.
            unsafe { Wide::store_one(channel, value) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod quads {
    use super::DotProduct;
    use crate::simd::traits::Element;
    use std::arch::x86_64::*;

    /// Four u8 a word of pixels, four i8 one of weights; sums are i32.
    pub struct Int8;

    impl DotProduct for Int8 {
        type S = <f32 as Element>::Avx512;
        const CHANNELS: usize = 4;
        const SCALED: bool = true;
        #[inline(always)]
        unsafe fn dot(x: __m512, w: __m512, sums: __m512) -> __m512 {
            // SAFETY: the caller has the instructions.
            unsafe {
                let sums = _mm512_castps_si512(sums);
                let (x, w) = (_mm512_castps_si512(x), _mm512_castps_si512(w));
                _mm512_castsi512_ps(_mm512_dpbusd_epi32(sums, x, w))
            }
        }
        #[inline(always)]
        unsafe fn number(sums: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_cvtepi32_ps(_mm512_castps_si512(sums)) }
        }
        #[inline(always)]
        unsafe fn load(channels: *const u8) -> __m512 {
            // SAFETY: the caller promises sixteen.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(channels.cast()))) }
        }
        #[inline(always)]
        unsafe fn store(channels: *mut u8, values: __m512) {
            // SAFETY: as above. What is too large for 32 bits becomes the smallest number there is, whose bits are those of
            // a large one without a sign: the largest byte, which is right.
            unsafe {
                let bytes = _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(values));
                _mm_storeu_si128(channels.cast(), bytes);
            }
        }
        #[inline(always)]
        unsafe fn load_one(channel: *const u8) -> f32 {
            // SAFETY: the caller promises a byte.
            f32::from(unsafe { *channel })
        }
        #[inline(always)]
        unsafe fn store_one(channel: *mut u8, value: f32) {
            // SAFETY: as above.
            unsafe { *channel = value.round_ties_even() as u8 }
        }
    }
}
