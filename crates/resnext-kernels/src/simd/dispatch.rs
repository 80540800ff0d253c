//! The instruction set, chosen at run time, and the one entry into code that is compiled for it.

#[cfg(target_arch = "x86_64")]
use super::amx;
#[cfg(target_arch = "aarch64")]
use super::intrinsics::neon;
#[cfg(target_arch = "x86_64")]
use super::intrinsics::x86;
use super::portable::Portable;
use super::traits::{Element, Kernel, Simd};
use std::sync::OnceLock;

/// An instruction set the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust arrays, which run on every CPU.
    Portable,
    /// 256-bit vectors with fused multiply-add (x86-64).
    Avx2,
    /// 512-bit vectors (x86-64).
    Avx512,
    /// 512-bit vectors, and AMX's tiles for inference in bf16 and int8 (x86-64 under Linux).
    Amx,
    /// 128-bit vectors (AArch64).
    Neon,
}

impl Isa {
    /// The instruction sets this machine has, the slowest first.
    pub fn available() -> Vec<Isa> {
        let mut found = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Isa::Avx2);
            }
            if is_x86_feature_detected!("avx512f") {
                found.push(Isa::Avx512);
            }
            if amx::available() {
                found.push(Isa::Amx);
            }
        }
        #[cfg(target_arch = "aarch64")]
        found.push(Isa::Neon);
        found
    }

    /// The instruction set in use: the fastest available, or the one named by the environment
    /// variable `RESNEXT_ISA` (`portable`, `avx2`, `avx512`, `amx`, `neon`) if this machine has it.
    pub fn current() -> Isa {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let available = Isa::available();
            let wanted = std::env::var("RESNEXT_ISA").unwrap_or_default();
            let named = available.iter().find(|isa| isa.name() == wanted);
            *named.or(available.last()).unwrap_or(&Isa::Portable)
        })
    }

    /// Whether vector additions are known to have execution units other than multiplications, as with AVX-512 on AMD.
    pub fn has_adders(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let vendor = std::arch::x86_64::__cpuid(0);
            let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
            let amd = [*b"Auth", *b"enti", *b"cAMD"];
            self.has_512_bits() && name == amd
        }
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether vectors have 512 bits.
    pub(crate) fn has_512_bits(self) -> bool {
        matches!(self, Isa::Avx512 | Isa::Amx)
    }

    /// What training's results depend on: the vectors and, with AVX-512, whether additions have execution units of their own,
    /// by which kernels are chosen.
    pub fn training_name(self) -> &'static str {
        match self.has_512_bits() {
            true if self.has_adders() => "avx512, AMD",
            true => "avx512",
            false => self.name(),
        }
    }

    /// The instruction set's name in `RESNEXT_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
        }
    }
}

macro_rules! element {
    ($t:ty, $avx2:ty, $avx512:ty, $neon:ty) => {
        impl Element for $t {
            #[cfg(target_arch = "x86_64")]
            type Avx2 = $avx2;
            #[cfg(target_arch = "x86_64")]
            type Avx512 = $avx512;
            #[cfg(not(target_arch = "x86_64"))]
            type Avx2 = Portable<$t>;
            #[cfg(not(target_arch = "x86_64"))]
            type Avx512 = Portable<$t>;
            #[cfg(target_arch = "aarch64")]
            type Neon = $neon;
            #[cfg(not(target_arch = "aarch64"))]
            type Neon = Portable<$t>;
            const ZERO: $t = 0.0;
            #[inline(always)]
            fn of_f64(v: f64) -> $t {
                v as $t
            }
            #[inline(always)]
            fn as_f64(self) -> f64 {
                self as f64
            }
        }
    };
}
element!(f32, x86::Avx2F32, x86::Avx512F32, neon::NeonF32);
element!(f64, x86::Avx2F64, x86::Avx512F64, neon::NeonF64);

/// Runs `kernel`, compiled for `isa`; in plain Rust if this machine does not have it.
pub fn dispatch<T: Element, K: Kernel<T>>(isa: Isa, kernel: K) {
    #[cfg(target_arch = "x86_64")]
    {
        if isa.has_512_bits() && is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was detected on the line above.
            return unsafe { Compiled::<T>::avx512(kernel) };
        }
        if isa == Isa::Avx2 && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were detected on the line above.
            return unsafe { Compiled::<T>::avx2(kernel) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if isa == Isa::Neon {
        // SAFETY: NEON is part of every AArch64 target Rust supports.
        return unsafe { Compiled::<T>::neon(kernel) };
    }
    let _ = isa;
    Compiled::<T>::portable(kernel);
}

/// A kernel's code, compiled for each instruction set.
///
/// These are methods of the kernel's type, so that the compiler generates them with the module that defines it, and
/// modules in parallel. As functions of this module, all kernels would be one unit of code generation.
trait Compiled<T: Element>: Kernel<T> {
    /// # Safety
    /// The CPU has AVX-512F.
    #[cfg(target_arch = "x86_64")]
    unsafe fn avx512(self);

    /// # Safety
    /// The CPU has AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    unsafe fn avx2(self);

    /// # Safety
    /// The CPU has NEON.
    #[cfg(target_arch = "aarch64")]
    unsafe fn neon(self);

    fn portable(self);
}

impl<T: Element, K: Kernel<T>> Compiled<T> for K {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512(self) {
        // SAFETY: compiled and entered with avx512f.
        unsafe { self.with_simd::<T::Avx512>() }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(self) {
        // SAFETY: compiled and entered with avx2 and fma.
        unsafe { self.with_simd::<T::Avx2>() }
    }

    #[cfg(target_arch = "aarch64")]
    unsafe fn neon(self) {
        // SAFETY: the caller has NEON.
        unsafe { self.with_simd::<T::Neon>() }
    }

    fn portable(self) {
        // SAFETY: plain Rust runs everywhere.
        unsafe { self.with_simd::<Portable<T>>() }
    }
}

/// The number of elements per vector of an instruction set, and of pixels per register tile.
pub fn lanes_and_tile<T: Element>(isa: Isa) -> (usize, usize) {
    struct Sizes<'a>(&'a mut (usize, usize));
    impl<T: Element> Kernel<T> for Sizes<'_> {
        #[inline(always)]
        unsafe fn with_simd<S: Simd<T = T>>(self) {
            *self.0 = (S::LANES, S::TILE);
        }
    }
    let mut sizes = (0, 0);
    dispatch::<T, _>(isa, Sizes(&mut sizes));
    sizes
}

/// The number of elements of type `T` per vector of an instruction set.
pub fn lanes<T: Element>(isa: Isa) -> usize {
    lanes_and_tile::<T>(isa).0
}
