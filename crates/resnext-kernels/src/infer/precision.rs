//! Precisions of inference: f32, bf16 and int8.
//!
//! Kernels read activations and weights in words of 32 bits: one f32 channel, two bf16 channels, multiplied and
//! accumulated in f32 by one instruction, or four int8 channels, accumulated in i32.

use super::dot_product::{DotProduct, F32};
#[cfg(target_arch = "x86_64")]
use super::pairs;
use super::quads;
use super::quantization::Quantization;
use crate::simd::dispatch::{Isa, dispatch, lanes_and_tile};
use crate::simd::traits::{Kernel, Simd, Storage};
use half::bf16;
#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;

/// The element type of a feature map in inference. Maps are stored in words of 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum MapType {
    /// One f32 per word.
    #[default]
    F32,
    /// Two bf16 per word, the first in the lower half.
    Bf16,
    /// Four u8 per word, the first in the lowest byte.
    U8(Quantization),
}

impl MapType {
    /// The number of channels per word.
    pub fn channels(self) -> usize {
        match self {
            MapType::F32 => 1,
            MapType::Bf16 => 2,
            MapType::U8(_) => 4,
        }
    }
}

/// The words' bf16 bits, two per word.
#[inline(always)]
pub fn halves(words: &[f32]) -> &[u16] {
    // SAFETY: u16 has no invalid bits, and its alignment is the smaller one.
    unsafe { words.align_to().1 }
}

/// The words' bf16 bits, two per word, for writing.
#[inline(always)]
pub fn halves_mut(words: &mut [f32]) -> &mut [u16] {
    // SAFETY: no type involved has invalid bits, and u16's alignment is the smaller one.
    unsafe { words.align_to_mut().1 }
}

/// The words' bytes.
#[inline(always)]
pub fn bytes(words: &[f32]) -> &[u8] {
    // SAFETY: u8 has no invalid bits, and its alignment is the smaller one.
    unsafe { words.align_to().1 }
}

/// The words' bytes, for writing.
#[inline(always)]
pub fn bytes_mut(words: &mut [f32]) -> &mut [u8] {
    // SAFETY: no type involved has invalid bits, and u8's alignment is the smaller one.
    unsafe { words.align_to_mut().1 }
}

/// Packs two values as bf16 into a word, rounded to the nearest, ties to even.
#[inline]
pub fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(u32::from(bf16_bits(second)) << 16 | u32::from(bf16_bits(first)))
}

/// Unpacks the two bf16 values of a word.
#[inline(always)]
pub fn unpair(word: f32) -> [f32; 2] {
    let bits = word.to_bits();
    [bits as u16, (bits >> 16) as u16].map(|half| bf16::from_bits(half).widen())
}

/// The bits of `v` as bf16, rounded to the nearest, ties to even.
#[inline]
pub fn bf16_bits(v: f32) -> u16 {
    bf16::narrow(v).to_bits()
}

/// Packs four integers as i8 into a word.
pub fn quad(numbers: [f32; 4]) -> f32 {
    f32::from_bits(u32::from_le_bytes(numbers.map(|v| (v as i8).to_le_bytes()[0])))
}

/// The precision of inference: element types of maps, and the instructions that compute in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// f32 maps and sums, by the given instruction set.
    F32(Isa),
    /// bf16 maps and f32 sums, by AVX-512 BF16 and, where the instruction set is AMX, its tiles. Only [`Precision::bf16`]
    /// makes it, where the CPU has them.
    Bf16(Isa),
    /// bf16 input, f32 sums and f32 output. Only [`Precision::writing_f32`] makes it.
    Bf16ToF32(Isa),
    /// u8 maps, i8 weights and i32 sums, by the given instruction set. Only [`Precision::int8`] makes it.
    Int8(Isa),
}

impl Precision {
    /// The precision with bf16 maps; `None` if `isa` or this machine has no instructions for them.
    pub fn bf16(isa: Isa) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if isa.has_512_bits() && is_x86_feature_detected!("avx512bf16") {
            return Some(Precision::Bf16(isa));
        }
        let _ = isa;
        None
    }

    /// The precision with int8 maps, which every CPU computes, and all to the same bits. AVX-512 needs VNNI, and so does
    /// AMX beside its tiles; a CPU without VNNI takes AVX2, by AVX-VNNI if it has that. An instruction set that this machine
    /// lacks is replaced by plain Rust.
    pub fn int8(isa: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        let isa = if isa.has_512_bits() && !is_x86_feature_detected!("avx512vnni") { Isa::Avx2 } else { isa };
        Precision::Int8(if Isa::available().contains(&isa) { isa } else { Isa::Portable })
    }

    /// Whether the direct kernel computes rows of pixels, for kernels of three columns. In int8, only VNNI's does: with AVX2,
    /// almost all such convolutions have a kernel of their own.
    pub fn has_rows(self) -> bool {
        !matches!(self, Precision::Int8(isa) if !isa.has_512_bits())
    }

    /// The precision with the same input type and f32 output. Int8 has none and stays as it is.
    pub fn writing_f32(self) -> Self {
        match self {
            Precision::Bf16(isa) => Precision::Bf16ToF32(isa),
            _ => self,
        }
    }

    /// Whether one instruction multiplies whole words and adds the products to their sums.
    pub fn has_dot_instruction(self) -> bool {
        match self {
            Precision::Int8(Isa::Avx2) => has_avx_vnni(),
            Precision::Int8(Isa::Neon) => has_i8mm(),
            Precision::Int8(isa) => isa.has_512_bits(),
            _ => true,
        }
    }

    /// The instruction set that computes it.
    pub fn isa(self) -> Isa {
        match self {
            Precision::F32(isa) | Precision::Int8(isa) | Precision::Bf16(isa) | Precision::Bf16ToF32(isa) => {
                isa
            }
        }
    }

    /// The number of channels per word of the input.
    pub fn channels(self) -> usize {
        match self {
            Precision::F32(_) => 1,
            Precision::Bf16(_) | Precision::Bf16ToF32(_) => 2,
            Precision::Int8(_) => 4,
        }
    }

    /// The number of channels per word of the output.
    pub fn written(self) -> usize {
        if matches!(self, Precision::Bf16ToF32(_)) { 1 } else { self.channels() }
    }

    /// The number of lanes in a vector of sums, and of pixels in a register tile two vectors wide.
    pub fn tile(self) -> (usize, usize) {
        lanes_and_tile::<f32>(self.isa())
    }

    /// Runs `kernel`, compiled for this precision's instructions.
    pub fn dispatch<K: DotKernel>(self, kernel: K) {
        match self {
            Precision::F32(isa) => dispatch(isa, kernel),
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16(_) | Precision::Bf16ToF32(_) => {
                assert!(self.isa().has_512_bits());
                assert!(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16"));
                match self {
                    // SAFETY: the features were detected above.
                    Precision::Bf16(_) => unsafe { kernel.avx512_bf16::<pairs::Bf16>() },
                    // SAFETY: as above.
                    _ => unsafe { kernel.avx512_bf16::<pairs::Bf16ToF32>() },
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            Precision::Bf16(_) | Precision::Bf16ToF32(_) => {
                unreachable!("`bf16` gives these on x86-64 alone")
            }
            #[cfg(target_arch = "x86_64")]
            Precision::Int8(Isa::Avx512 | Isa::Amx) => {
                assert!(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni"));
                // SAFETY: the features were detected on the line above.
                unsafe { kernel.avx512_vnni() }
            }
            #[cfg(target_arch = "x86_64")]
            Precision::Int8(Isa::Avx2) => {
                assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));
                match has_avx_vnni() {
                    // SAFETY: the features were detected on the lines above.
                    true => unsafe { kernel.avx_vnni() },
                    // SAFETY: the same.
                    false => unsafe { kernel.avx2_int8() },
                }
            }
            #[cfg(target_arch = "aarch64")]
            Precision::Int8(Isa::Neon) => {
                if has_i8mm() {
                    // SAFETY: the feature was detected on the line above; NEON is part of every AArch64 target Rust supports.
                    unsafe { kernel.neon_i8mm() }
                } else if is_aarch64_feature_detected!("dotprod") {
                    // SAFETY: as above.
                    unsafe { kernel.neon_dotprod() }
                } else {
                    // SAFETY: NEON is always there.
                    unsafe { kernel.with_dot::<quads::Neon<quads::Widened>>() }
                }
            }
            // SAFETY: plain Rust runs everywhere.
            Precision::Int8(_) => unsafe { kernel.with_dot::<quads::Plain>() },
        }
    }
}

/// Whether the CPU has an instruction for four products of int8 in vectors of 256 bits.
fn has_avx_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether the CPU has an instruction for four products of u8 and i8 in vectors of NEON.
fn has_i8mm() -> bool {
    #[cfg(target_arch = "aarch64")]
    return is_aarch64_feature_detected!("i8mm");
    #[cfg(not(target_arch = "aarch64"))]
    false
}

/// A kernel that is compiled separately for each precision.
pub trait DotKernel: Sized {
    /// The kernel's code. Implementations are `#[inline(always)]`, so that it is compiled with `W`'s instructions.
    ///
    /// # Safety
    /// The CPU has `W`'s instructions.
    unsafe fn with_dot<W: DotProduct>(self);
}

impl<K: DotKernel> Kernel<f32> for K {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = f32>>(self) {
        // SAFETY: the same contract.
        unsafe { self.with_dot::<F32<S>>() }
    }
}

/// A kernel's code, compiled for instructions beyond those of [`dispatch`].
#[cfg(target_arch = "x86_64")]
trait Compiled: DotKernel {
    /// # Safety
    /// The CPU has AVX-512F and AVX-512 BF16.
    unsafe fn avx512_bf16<W: DotProduct>(self);

    /// # Safety
    /// The CPU has AVX-512F and AVX-512 VNNI.
    unsafe fn avx512_vnni(self);

    /// # Safety
    /// The CPU has AVX2 and FMA.
    unsafe fn avx2_int8(self);

    /// # Safety
    /// The CPU has AVX2, FMA and AVX-VNNI.
    unsafe fn avx_vnni(self);
}

#[cfg(target_arch = "x86_64")]
impl<K: DotKernel> Compiled for K {
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn avx512_bf16<W: DotProduct>(self) {
        // SAFETY: compiled and entered with the instructions of both kinds of pairs, one of which W is.
        unsafe { self.with_dot::<W>() }
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn avx512_vnni(self) {
        // SAFETY: compiled and entered with the instructions.
        unsafe { self.with_dot::<quads::Vnni>() }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2_int8(self) {
        // SAFETY: compiled and entered with the instructions.
        unsafe { self.with_dot::<quads::Avx2<quads::Maddubs>>() }
    }

    #[target_feature(enable = "avx2,fma,avxvnni")]
    unsafe fn avx_vnni(self) {
        // SAFETY: compiled and entered with the instructions.
        unsafe { self.with_dot::<quads::Avx2<quads::AvxVnni>>() }
    }
}

/// A kernel's code, compiled for instructions beyond those of [`dispatch`].
#[cfg(target_arch = "aarch64")]
trait Compiled: DotKernel {
    /// # Safety
    /// The CPU has NEON's dot products.
    unsafe fn neon_dotprod(self);

    /// # Safety
    /// The CPU has I8MM.
    unsafe fn neon_i8mm(self);
}

#[cfg(target_arch = "aarch64")]
impl<K: DotKernel> Compiled for K {
    #[target_feature(enable = "dotprod")]
    unsafe fn neon_dotprod(self) {
        // SAFETY: compiled and entered with the instructions.
        unsafe { self.with_dot::<quads::Neon<quads::Dot>>() }
    }

    #[target_feature(enable = "i8mm")]
    unsafe fn neon_i8mm(self) {
        // SAFETY: compiled and entered with the instructions.
        unsafe { self.with_dot::<quads::Neon<quads::Usdot>>() }
    }
}
