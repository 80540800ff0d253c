//! Dot products of int8: four u8 per word of pixels, four i8 per word of weights. Sums are i32, and exact.

#[cfg(target_arch = "aarch64")]
pub use neon::{Dot, Neon, Usdot, Widened};
pub use plain::Plain;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, AvxVnni, Maddubs, Vnni};

mod plain {
    use crate::infer::dot_product::DotProduct;
    use crate::simd::portable::Portable;
    use crate::simd::traits::Simd;
    use std::array::from_fn;

    /// Plain Rust, which every CPU runs.
    pub struct Plain;

    type S = Portable<f32>;

    impl DotProduct for Plain {
        type S = S;
        const CHANNELS: usize = 4;
        const SCALED: bool = true;
        const ROWS: bool = false;
        #[inline(always)]
        unsafe fn dot(x: [f32; S::LANES], w: [f32; S::LANES], sums: [f32; S::LANES]) -> [f32; S::LANES] {
            from_fn(|lane| {
                let (x, w) = (x[lane].to_bits().to_le_bytes(), w[lane].to_bits().to_le_bytes());
                let mut sum = sums[lane].to_bits() as i32;
                for i in 0..4 {
                    sum = sum.wrapping_add(i32::from(x[i]) * i32::from(w[i] as i8));
                }
                f32::from_bits(sum as u32)
            })
        }
        #[inline(always)]
        unsafe fn number(sums: [f32; S::LANES]) -> [f32; S::LANES] {
            sums.map(|sum| sum.to_bits() as i32 as f32)
        }
        #[inline(always)]
        unsafe fn fused(a: [f32; S::LANES], b: [f32; S::LANES], c: [f32; S::LANES]) -> [f32; S::LANES] {
            from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
        }
        #[inline(always)]
        unsafe fn load(channels: *const u8) -> [f32; S::LANES] {
            // SAFETY: the caller promises as many bytes.
            from_fn(|lane| unsafe { Self::load_one(channels.add(lane)) })
        }
        #[inline(always)]
        unsafe fn store(channels: *mut u8, values: [f32; S::LANES]) {
            for (lane, value) in values.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { Self::store_one(channels.add(lane), value) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::infer::dot_product::DotProduct;
    use crate::simd::traits::Element;
    use std::arch::x86_64::*;
    use std::marker::PhantomData;

    /// AVX-512 VNNI: one instruction for the four products and their sum.
    pub struct Vnni;

    impl DotProduct for Vnni {
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
            // SAFETY: as above. A value too large for i32 converts to i32::MIN, whose bits read as a large unsigned
            // integer, and that saturates to 255 as it should.
            unsafe {
                let bytes = _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(values));
                _mm_storeu_si128(channels.cast(), bytes);
            }
        }
    }

    /// How vectors of 256 bits are multiplied.
    pub trait Multiply {
        /// `sums + x · w`, with u8 in `x`, i8 in `w`, and four of each per sum.
        ///
        /// # Safety
        /// The CPU has the instructions.
        unsafe fn dot(x: __m256i, w: __m256i, sums: __m256i) -> __m256i;
    }

    /// AVX2's instructions. `vpmaddubsw` adds products two by two, which would saturate at 2¹⁵, but not with the weights of
    /// a [`Filter`](crate::infer::packed::Filter); `vpmaddwd` by ones adds the two sums of a word. A tile of twelve vectors
    /// of sums runs at twice the rate of f32. Bytes widened to i16 and multiplied by `vpmaddwd` alone need as many
    /// multiplications and more of all else: 1.5 times the rate of f32.
    pub struct Maddubs;

    impl Multiply for Maddubs {
        #[inline(always)]
        unsafe fn dot(x: __m256i, w: __m256i, sums: __m256i) -> __m256i {
            // SAFETY: the same contract.
            unsafe {
                let fours = _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1));
                _mm256_add_epi32(sums, fours)
            }
        }
    }

    /// AVX-VNNI, which Intel's CPUs without AVX-512 have had since 2021: one instruction for the four products and their sum.
    pub struct AvxVnni;

    impl Multiply for AvxVnni {
        #[inline(always)]
        unsafe fn dot(x: __m256i, w: __m256i, sums: __m256i) -> __m256i {
            // SAFETY: the same contract.
            unsafe { _mm256_dpbusd_avx_epi32(sums, x, w) }
        }
    }

    /// AVX2, with products by the instructions of `M`.
    pub struct Avx2<M>(PhantomData<M>);

    impl<M: Multiply> DotProduct for Avx2<M> {
        type S = <f32 as Element>::Avx2;
        const CHANNELS: usize = 4;
        const SCALED: bool = true;
        const ROWS: bool = false;
        /// Groups 0, 2, 4 and 6 of eight lie in the lower half.
        #[inline(always)]
        unsafe fn words_in_halves(channels: *const u8) -> __m256 {
            // SAFETY: the caller promises eight words.
            unsafe {
                let halves = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
                _mm256_permutevar8x32_ps(Self::words(channels), halves)
            }
        }
        #[inline(always)]
        unsafe fn dot(x: __m256, w: __m256, sums: __m256) -> __m256 {
            // SAFETY: the caller has the instructions.
            unsafe {
                let [x, w, sums] =
                    [_mm256_castps_si256(x), _mm256_castps_si256(w), _mm256_castps_si256(sums)];
                _mm256_castsi256_ps(M::dot(x, w, sums))
            }
        }
        #[inline(always)]
        unsafe fn number(sums: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_cvtepi32_ps(_mm256_castps_si256(sums)) }
        }
        #[inline(always)]
        unsafe fn load(channels: *const u8) -> __m256 {
            // SAFETY: the caller promises eight.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(channels.cast()))) }
        }
        #[inline(always)]
        unsafe fn store(channels: *mut u8, values: __m256) {
            // SAFETY: as above.
            unsafe { _mm_storel_epi64(channels.cast(), bytes([values; 2])) }
        }
        #[inline(always)]
        unsafe fn store_both(channels: *mut u8, values: [__m256; 2]) {
            // SAFETY: as above, twice.
            unsafe { _mm_storeu_si128(channels.cast(), bytes(values)) }
        }
    }

    /// Values that are not negative as u8: rounded to the nearest, ties to even, and saturated.
    ///
    /// # Safety
    /// The CPU has AVX2.
    #[inline(always)]
    unsafe fn bytes([first, second]: [__m256; 2]) -> __m128i {
        // SAFETY: the caller has the instructions.
        unsafe {
            // Values too large for an i32 would become negative.
            let whole = |v| _mm256_cvtps_epi32(_mm256_min_ps(v, _mm256_set1_ps(255.0)));
            // Each half of a vector is packed separately, so the second quarter changes places with the third.
            let packed = _mm256_packs_epi32(whole(first), whole(second));
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            _mm_packus_epi16(_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed))
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use crate::infer::dot_product::DotProduct;
    use crate::simd::traits::Element;
    use std::arch::aarch64::*;
    use std::arch::asm;
    use std::marker::PhantomData;

    /// How vectors of 128 bits are multiplied.
    pub trait Multiply {
        /// `sums + x · w`, with u8 in `x`, i8 in `w`, and four of each per sum.
        ///
        /// # Safety
        /// The CPU has the instructions.
        unsafe fn dot(x: uint8x16_t, w: int8x16_t, sums: int32x4_t) -> int32x4_t;
    }

    /// What every CPU has: bytes are widened to i16 and multiplied to i32.
    pub struct Widened;

    impl Multiply for Widened {
        #[inline(always)]
        unsafe fn dot(x: uint8x16_t, w: int8x16_t, sums: int32x4_t) -> int32x4_t {
            // SAFETY: NEON is always there.
            unsafe {
                let low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x)));
                let high = vreinterpretq_s16_u16(vmovl_high_u8(x));
                let (w_low, w_high) = (vmovl_s8(vget_low_s8(w)), vmovl_high_s8(w));
                // The four products of each word.
                let first = vmull_s16(vget_low_s16(low), vget_low_s16(w_low));
                let second = vmull_high_s16(low, w_low);
                let third = vmull_s16(vget_low_s16(high), vget_low_s16(w_high));
                let fourth = vmull_high_s16(high, w_high);
                let words = vpaddq_s32(vpaddq_s32(first, second), vpaddq_s32(third, fourth));
                vaddq_s32(sums, words)
            }
        }
    }

    /// The dot-product instructions, which most CPUs have since 2018. They multiply bytes of one sign only, so 128 is taken
    /// from the pixels, and 128 times the weights is added: once per vector of weights, as the compiler sees that it is the
    /// same for all pixels of a tile.
    pub struct Dot;

    impl Multiply for Dot {
        #[inline(always)]
        unsafe fn dot(x: uint8x16_t, w: int8x16_t, sums: int32x4_t) -> int32x4_t {
            // SAFETY: the same contract.
            unsafe {
                let less = vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(128)));
                let offset = vshlq_n_s32::<7>(sdot(vdupq_n_s32(0), vdupq_n_s8(1), w));
                sdot(vaddq_s32(sums, offset), less, w)
            }
        }
    }

    /// I8MM's USDOT, which most CPUs have since 2021: one instruction for the four products and their sum.
    pub struct Usdot;

    impl Multiply for Usdot {
        #[inline(always)]
        unsafe fn dot(x: uint8x16_t, w: int8x16_t, sums: int32x4_t) -> int32x4_t {
            // SAFETY: the same contract.
            unsafe { usdot(sums, x, w) }
        }
    }

    /// `sums + x · w`. Stable Rust has no name for the instruction.
    #[inline]
    #[target_feature(enable = "dotprod")]
    fn sdot(mut sums: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: the function is entered where the CPU has the instruction, which reads and writes these registers alone.
        unsafe {
            asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) x, in(vreg) w,
                options(pure, nomem, nostack, preserves_flags));
        }
        sums
    }

    /// `sums + x · w`. Stable Rust has no name for the instruction.
    #[inline]
    #[target_feature(enable = "i8mm")]
    fn usdot(mut sums: int32x4_t, x: uint8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: the function is entered where the CPU has the instruction, which reads and writes these registers alone.
        unsafe {
            asm!("usdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) x, in(vreg) w,
                options(pure, nomem, nostack, preserves_flags));
        }
        sums
    }

    /// NEON, with products by the instructions of `M`.
    pub struct Neon<M>(PhantomData<M>);

    impl<M: Multiply> DotProduct for Neon<M> {
        type S = <f32 as Element>::Neon;
        const CHANNELS: usize = 4;
        const SCALED: bool = true;
        const ROWS: bool = false;
        #[inline(always)]
        unsafe fn dot(x: float32x4_t, w: float32x4_t, sums: float32x4_t) -> float32x4_t {
            // SAFETY: the caller has the instructions.
            unsafe {
                let (x, w) = (vreinterpretq_u8_f32(x), vreinterpretq_s8_f32(w));
                vreinterpretq_f32_s32(M::dot(x, w, vreinterpretq_s32_f32(sums)))
            }
        }
        #[inline(always)]
        unsafe fn number(sums: float32x4_t) -> float32x4_t {
            // SAFETY: NEON is always there.
            unsafe { vcvtq_f32_s32(vreinterpretq_s32_f32(sums)) }
        }
        #[inline(always)]
        unsafe fn load(channels: *const u8) -> float32x4_t {
            // SAFETY: the caller promises four.
            let bytes: [u8; 4] = unsafe { channels.cast::<[u8; 4]>().read_unaligned() };
            // SAFETY: NEON is always there, and there are four.
            unsafe { vld1q_f32(bytes.map(f32::from).as_ptr()) }
        }
        #[inline(always)]
        unsafe fn store(channels: *mut u8, values: float32x4_t) {
            // SAFETY: as above. Conversions and narrowing saturate.
            unsafe {
                let narrow = vqmovn_u32(vcvtnq_u32_f32(values));
                let bytes = vqmovn_u16(vcombine_u16(narrow, narrow));
                let word = vget_lane_u32::<0>(vreinterpret_u32_u8(bytes));
                channels.cast::<u32>().write_unaligned(word);
            }
        }
    }
}
