//! Vectors of AVX2, AVX-512 and NEON, by intrinsics.

/// One `Simd` implementation by intrinsics; the types differ only in names and sizes.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! simd {
    ($name:ident, $t:ty, $v:ty, $index:ty, lanes $lanes:expr, tile $tile:expr, pixels $pixels:expr,
     $zero:expr, $load:expr, $store:expr, $splat:expr, $fma:expr, $fnma:expr, $add:expr, $sub:expr, $max:expr, $positive:expr, $make_index:expr, $permute:expr
     $(, bf16 $load_bf16:expr, $store_bf16:expr)? $(, splat_two $splat_two:ident)?
     $(, broadcast4 $broadcast4:ident)? $(, store_columns $store_columns:ident)?) => {
        #[derive(Clone, Copy)]
        pub struct $name;
        // SAFETY of each body: the trait's contract, the CPU has the instructions and the pointers
        // have the elements, is exactly what the intrinsics ask for; all loads are unaligned ones.
        #[allow(clippy::undocumented_unsafe_blocks, clippy::redundant_closure_call)]
        impl Simd for $name {
            type T = $t;
            type V = $v;
            type Index = $index;
            const LANES: usize = $lanes;
            const TILE: usize = $tile;
            const PIXELS: usize = $pixels;
            #[inline(always)]
            unsafe fn zero() -> $v {
                unsafe { ($zero)() }
            }
            #[inline(always)]
            unsafe fn load(p: *const $t) -> $v {
                unsafe { ($load)(p) }
            }
            #[inline(always)]
            unsafe fn store(p: *mut $t, v: $v) {
                unsafe { ($store)(p, v) }
            }
            #[inline(always)]
            unsafe fn splat(p: *const $t) -> $v {
                unsafe { ($splat)(*p) }
            }
            #[inline(always)]
            unsafe fn fma(a: $v, b: $v, acc: $v) -> $v {
                unsafe { ($fma)(a, b, acc) }
            }
            #[inline(always)]
            unsafe fn fnma(a: $v, b: $v, acc: $v) -> $v {
                unsafe { ($fnma)(a, b, acc) }
            }
            #[inline(always)]
            unsafe fn add(a: $v, b: $v) -> $v {
                unsafe { ($add)(a, b) }
            }
            #[inline(always)]
            unsafe fn sub(a: $v, b: $v) -> $v {
                unsafe { ($sub)(a, b) }
            }
            #[inline(always)]
            unsafe fn max(a: $v, b: $v) -> $v {
                unsafe { ($max)(a, b) }
            }
            #[inline(always)]
            unsafe fn where_positive(y: $v, v: $v) -> $v {
                unsafe { ($positive)(y, v) }
            }
            #[inline(always)]
            unsafe fn index(lane_of: impl Fn(usize) -> usize) -> $index {
                unsafe { $make_index(lane_of) }
            }
            #[inline(always)]
            unsafe fn permute(v: $v, index: $index) -> $v {
                unsafe { $permute(v, index) }
            }
            $(
                #[inline(always)]
                unsafe fn load_bf16(p: *const bf16) -> $v {
                    unsafe { $load_bf16(p) }
                }
                #[inline(always)]
                unsafe fn store_bf16(p: *mut bf16, v: $v) {
                    unsafe { $store_bf16(p, v) }
                }
            )?
            $(
                const HAS_BROADCAST4: bool = true;
                #[inline(always)]
                unsafe fn load_broadcast4<const AT: usize>(p: *const $t) -> $v {
                    unsafe { $broadcast4::<AT>(p) }
                }
            )?
            $(
                #[inline(always)]
                unsafe fn splat_two(p: *const $t) -> $v {
                    unsafe { $splat_two(p) }
                }
            )?
            $(
                #[inline(always)]
                unsafe fn store_columns<const M: usize>(rows: [*const $t; M], to: *mut $t) {
                    unsafe { $store_columns(rows, to) }
                }
            )?
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub mod x86 {
    use crate::simd::traits::{Simd, opaque};
    use half::bf16;
    use std::arch::x86_64::*;

    simd!(Avx512F32, f32, __m512, __m512i, lanes 16, tile 14, pixels 12,
        || _mm512_setzero_ps(), |p| _mm512_loadu_ps(p), |p, v| _mm512_storeu_ps(p, v),
        |x| _mm512_set1_ps(x), |a, b, c| _mm512_fmadd_ps(a, b, c), |a, b, c| _mm512_fnmadd_ps(a, b, c),
        |a, b| _mm512_add_ps(a, b), |a, b| _mm512_sub_ps(a, b), |a, b| _mm512_max_ps(b, a),
        |y, v| _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(y, _mm512_setzero_ps()), v),
        index_512_32, permute_512_ps, bf16 load_bf16_512, store_bf16_512, splat_two splat_two_512);
    simd!(Avx512F64, f64, __m512d, __m512i, lanes 8, tile 14, pixels 12,
        || _mm512_setzero_pd(), |p| _mm512_loadu_pd(p), |p, v| _mm512_storeu_pd(p, v),
        |x| _mm512_set1_pd(x), |a, b, c| _mm512_fmadd_pd(a, b, c), |a, b, c| _mm512_fnmadd_pd(a, b, c),
        |a, b| _mm512_add_pd(a, b), |a, b| _mm512_sub_pd(a, b), |a, b| _mm512_max_pd(b, a),
        |y, v| _mm512_maskz_mov_pd(_mm512_cmp_pd_mask::<_CMP_GT_OQ>(y, _mm512_setzero_pd()), v),
        index_512_64, permute_512_pd);
    simd!(Avx2F32, f32, __m256, __m256i, lanes 8, tile 6, pixels 6,
        || _mm256_setzero_ps(), |p| _mm256_loadu_ps(p), |p, v| _mm256_storeu_ps(p, v),
        |x| _mm256_set1_ps(x), |a, b, c| _mm256_fmadd_ps(a, b, c), |a, b, c| _mm256_fnmadd_ps(a, b, c),
        |a, b| _mm256_add_ps(a, b), |a, b| _mm256_sub_ps(a, b), |a, b| _mm256_max_ps(b, a),
        |y, v| _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(y, _mm256_setzero_ps()), v),
        index_256_32, permute_256_ps, bf16 load_bf16_256, store_bf16_256, broadcast4 load_broadcast4_256,
        store_columns store_columns_256);
    simd!(Avx2F64, f64, __m256d, __m256i, lanes 4, tile 6, pixels 6,
        || _mm256_setzero_pd(), |p| _mm256_loadu_pd(p), |p, v| _mm256_storeu_pd(p, v),
        |x| _mm256_set1_pd(x), |a, b, c| _mm256_fmadd_pd(a, b, c), |a, b, c| _mm256_fnmadd_pd(a, b, c),
        |a, b| _mm256_add_pd(a, b), |a, b| _mm256_sub_pd(a, b), |a, b| _mm256_max_pd(b, a),
        |y, v| _mm256_and_pd(_mm256_cmp_pd::<_CMP_GT_OQ>(y, _mm256_setzero_pd()), v),
        index_256_64, permute_256_pd);

    #[inline(always)]
    unsafe fn splat_two_512(p: *const f32) -> __m512 {
        // SAFETY: the caller has the instructions, and two elements, which may lie anywhere.
        unsafe { _mm512_castpd_ps(_mm512_set1_pd(p.cast::<f64>().read_unaligned())) }
    }
    /// Transposes 8×8 elements. Each store but the last overwrites what the one before it has written too much.
    #[inline(always)]
    unsafe fn store_columns_256<const M: usize>(rows: [*const f32; M], to: *mut f32) {
        const { assert!(M <= 8) };
        // SAFETY: the caller has the instructions, eight elements per row, and room for eight elements at each column.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for m in 0..M {
                r[m] = _mm256_loadu_ps(rows[m]);
            }
            let (a, b) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
            let (c, d) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
            let (e, f) = (_mm256_unpacklo_ps(r[4], r[5]), _mm256_unpackhi_ps(r[4], r[5]));
            let (g, h) = (_mm256_unpacklo_ps(r[6], r[7]), _mm256_unpackhi_ps(r[6], r[7]));
            // Columns 0 to 3 in the lower halves, 4 to 7 in the upper ones: first of rows 0 to 3, then of rows 4 to 7.
            let upper = [
                _mm256_shuffle_ps::<0x44>(a, c),
                _mm256_shuffle_ps::<0xee>(a, c),
                _mm256_shuffle_ps::<0x44>(b, d),
                _mm256_shuffle_ps::<0xee>(b, d),
            ];
            let lower = [
                _mm256_shuffle_ps::<0x44>(e, g),
                _mm256_shuffle_ps::<0xee>(e, g),
                _mm256_shuffle_ps::<0x44>(f, h),
                _mm256_shuffle_ps::<0xee>(f, h),
            ];
            for i in 0..4 {
                _mm256_storeu_ps(to.add(i * M), _mm256_permute2f128_ps::<0x20>(upper[i], lower[i]));
            }
            for i in 0..4 {
                _mm256_storeu_ps(to.add((4 + i) * M), _mm256_permute2f128_ps::<0x31>(upper[i], lower[i]));
            }
        }
    }
    #[inline(always)]
    unsafe fn index_512_32(lane_of: impl Fn(usize) -> usize) -> __m512i {
        let mut table = [0i32; 16];
        for (i, lane) in table.iter_mut().enumerate() {
            *lane = lane_of(i) as i32;
        }
        // SAFETY: the table is as long as the vector; the caller has the instructions.
        unsafe { _mm512_loadu_si512(table.as_ptr().cast()) }
    }
    #[inline(always)]
    unsafe fn index_512_64(lane_of: impl Fn(usize) -> usize) -> __m512i {
        let mut table = [0i64; 8];
        for (i, lane) in table.iter_mut().enumerate() {
            *lane = lane_of(i) as i64;
        }
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(table.as_ptr().cast()) }
    }
    #[inline(always)]
    unsafe fn index_256_32(lane_of: impl Fn(usize) -> usize) -> __m256i {
        let mut table = [0i32; 8];
        for (i, lane) in table.iter_mut().enumerate() {
            *lane = lane_of(i) as i32;
        }
        // SAFETY: as above.
        unsafe { _mm256_loadu_si256(table.as_ptr().cast()) }
    }
    /// AVX2 permutes doubles by constants only, but floats by a vector, so an index of doubles is one of pairs of floats.
    #[inline(always)]
    unsafe fn index_256_64(lane_of: impl Fn(usize) -> usize) -> __m256i {
        // SAFETY: as above.
        unsafe { index_256_32(|i| 2 * lane_of(i / 2) + i % 2) }
    }
    #[inline(always)]
    unsafe fn permute_512_ps(v: __m512, index: __m512i) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_permutexvar_ps(index, v) }
    }
    #[inline(always)]
    unsafe fn permute_512_pd(v: __m512d, index: __m512i) -> __m512d {
        // SAFETY: as above.
        unsafe { _mm512_permutexvar_pd(index, v) }
    }
    #[inline(always)]
    unsafe fn permute_256_ps(v: __m256, index: __m256i) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_permutevar8x32_ps(v, index) }
    }
    #[inline(always)]
    unsafe fn permute_256_pd(v: __m256d, index: __m256i) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(v), index)) }
    }

    /// Four elements are one half of the vector, and one instruction loads and shuffles within halves. If the compiler saw
    /// that the four loads of a pixel are the same, it would keep the vector in a register, and lack one for sums.
    #[inline(always)]
    unsafe fn load_broadcast4_256<const AT: usize>(p: *const f32) -> __m256 {
        // SAFETY: the caller has the instructions, and eight elements.
        unsafe {
            let v = _mm256_loadu_ps(opaque(p));
            match AT {
                0 => _mm256_permute_ps::<0x00>(v),
                1 => _mm256_permute_ps::<0x55>(v),
                2 => _mm256_permute_ps::<0xaa>(v),
                _ => _mm256_permute_ps::<0xff>(v),
            }
        }
    }

    /// bf16 is the upper half of f32. Rounds as `bf16::narrow` does, with AVX-512F alone.
    #[inline(always)]
    unsafe fn load_bf16_512(p: *const bf16) -> __m512 {
        // SAFETY: the caller has the instructions, and sixteen elements.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_512(p: *mut bf16, v: __m512) {
        // SAFETY: as above.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let cut = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(cut, _mm512_set1_epi32(1));
            let nearest = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let quiet = _mm512_or_si512(cut, _mm512_set1_epi32(0x40));
            let halves = _mm512_mask_mov_epi32(_mm512_srli_epi32::<16>(nearest), nan, quiet);
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(halves));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_256(p: *const bf16) -> __m256 {
        // SAFETY: the caller has the instructions, and eight elements.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_256(p: *mut bf16, v: __m256) {
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_castps_si256(v);
            let cut = _mm256_srli_epi32::<16>(bits);
            let odd = _mm256_and_si256(cut, _mm256_set1_epi32(1));
            let nearest = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let quiet = _mm256_or_si256(cut, _mm256_set1_epi32(0x40));
            let halves = _mm256_blendv_epi8(_mm256_srli_epi32::<16>(nearest), quiet, nan);
            // The two halves of the vector are packed separately: the second's four elements belong after the first's.
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(halves, halves));
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed));
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::simd::traits::Simd;
    use half::bf16;
    use std::arch::aarch64::*;

    simd!(NeonF32, f32, float32x4_t, uint8x16_t, lanes 4, tile 14, pixels 12,
        || vdupq_n_f32(0.0), |p| vld1q_f32(p), |p, v| vst1q_f32(p, v),
        |x| vdupq_n_f32(x), |a, b, c| vfmaq_f32(c, a, b), |a, b, c| vfmsq_f32(c, a, b),
        |a, b| vaddq_f32(a, b), |a, b| vsubq_f32(a, b), |a, b| vmaxq_f32(a, b),
        |y, v| vbslq_f32(vcgtq_f32(y, vdupq_n_f32(0.0)), v, vdupq_n_f32(0.0)),
        index_32, permute_32, bf16 load_bf16, store_bf16);
    simd!(NeonF64, f64, float64x2_t, uint8x16_t, lanes 2, tile 14, pixels 12,
        || vdupq_n_f64(0.0), |p| vld1q_f64(p), |p, v| vst1q_f64(p, v),
        |x| vdupq_n_f64(x), |a, b, c| vfmaq_f64(c, a, b), |a, b, c| vfmsq_f64(c, a, b),
        |a, b| vaddq_f64(a, b), |a, b| vsubq_f64(a, b), |a, b| vmaxq_f64(a, b),
        |y, v| vbslq_f64(vcgtq_f64(y, vdupq_n_f64(0.0)), v, vdupq_n_f64(0.0)),
        index_64, permute_64);

    #[inline(always)]
    unsafe fn index_bytes(size: usize, lane_of: impl Fn(usize) -> usize) -> uint8x16_t {
        let mut table = [0u8; 16];
        for (i, byte) in table.iter_mut().enumerate() {
            *byte = (lane_of(i / size) * size + i % size) as u8;
        }
        // SAFETY: the table is as long as the vector.
        unsafe { vld1q_u8(table.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn index_32(lane_of: impl Fn(usize) -> usize) -> uint8x16_t {
        // SAFETY: as above.
        unsafe { index_bytes(4, lane_of) }
    }
    #[inline(always)]
    unsafe fn index_64(lane_of: impl Fn(usize) -> usize) -> uint8x16_t {
        // SAFETY: as above.
        unsafe { index_bytes(8, lane_of) }
    }
    #[inline(always)]
    unsafe fn permute_32(v: float32x4_t, index: uint8x16_t) -> float32x4_t {
        // SAFETY: NEON is always there; every byte of the index is below 16.
        unsafe { vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(v), index)) }
    }
    #[inline(always)]
    unsafe fn permute_64(v: float64x2_t, index: uint8x16_t) -> float64x2_t {
        // SAFETY: as above.
        unsafe { vreinterpretq_f64_u8(vqtbl1q_u8(vreinterpretq_u8_f64(v), index)) }
    }

    /// bf16 is the upper half of f32. Rounds as `bf16::narrow` does.
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> float32x4_t {
        // SAFETY: the caller promises four elements.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: float32x4_t) {
        // SAFETY: as above.
        unsafe {
            let bits = vreinterpretq_u32_f32(v);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let nearest = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
            // Only NaN differs from itself.
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x40_0000));
            vst1_u16(p.cast(), vshrn_n_u32::<16>(vbslq_u32(vceqq_f32(v, v), nearest, quiet)));
        }
    }
}
