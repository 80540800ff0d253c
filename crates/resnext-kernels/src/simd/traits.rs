//! The small SIMD vocabulary that kernels are written in.
//!
//! A kernel is a struct that implements [`Kernel`]; `dispatch` in `dispatch.rs` enters it through a function compiled for
//! the chosen instruction set, so everything marked `inline(always)` below it is compiled with those instructions, without
//! `RUSTFLAGS`.

use half::bf16;
use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::{Add, AddAssign, Mul, MulAssign, Sub};

/// A type that maps are stored as: f32, f64 or bf16.
pub trait Storage: Copy + Default + Debug + PartialEq + Send + Sync + 'static {
    /// The type that kernels compute in: f32 for bf16, otherwise the type itself.
    type Compute: Element + Storage;

    /// Loads a vector of elements, widened.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions, and `p` points to `S::LANES` elements.
    unsafe fn load<S: Simd<T = Self::Compute>>(p: *const Self) -> S::V;

    /// Stores a vector of elements, rounded to the nearest, ties to even.
    ///
    /// # Safety
    /// The same as for `load`, and the elements may be written.
    unsafe fn store<S: Simd<T = Self::Compute>>(p: *mut Self, v: S::V);

    /// `p` as a pointer to values of the type that sums have; `None` for bf16, to which they are rounded.
    fn unrounded(p: *mut Self) -> Option<*mut Self::Compute>;

    /// Widens one element.
    fn widen(self) -> Self::Compute;

    /// Rounds one element to the nearest, ties to even.
    fn narrow(v: Self::Compute) -> Self;

    /// Widens a slice; borrows it where there is nothing to widen.
    fn widen_all(values: &[Self]) -> Cow<'_, [Self::Compute]>;

    /// Rounds a vector of elements.
    fn narrow_all(values: Vec<Self::Compute>) -> Vec<Self>;
}

/// A type that kernels compute in: f32 or f64.
pub trait Element:
    Storage<Compute = Self>
    + PartialOrd
    + Add<Output = Self>
    + AddAssign
    + Mul<Output = Self>
    + MulAssign
    + Sub<Output = Self>
{
    /// Vectors of AVX2.
    type Avx2: Simd<T = Self>;
    /// Vectors of AVX-512.
    type Avx512: Simd<T = Self>;
    /// Vectors of NEON.
    type Neon: Simd<T = Self>;
    /// Zero.
    const ZERO: Self;
    /// Converts from f64, rounded to the nearest.
    fn of_f64(v: f64) -> Self;
    /// Converts to f64.
    fn as_f64(self) -> f64;
}

/// The vector operations of one instruction set on one element type.
///
/// # Safety
/// Every method may only be called where the CPU has the instruction set; `load` and `store` need
/// `LANES` readable or writable elements at the pointer, `splat` one, `splat_two` two, and `store_columns` as many as it
/// says. Indices given to `permute` are below `LANES`.
pub trait Simd: Copy + 'static {
    type T: Element;
    type V: Copy;
    type Index: Copy;
    /// The number of elements per vector.
    const LANES: usize;
    /// Pixels in a register tile two vectors wide: `2 · TILE` sums, two vectors of weights and one of pixels fit the
    /// register file.
    const TILE: usize;
    /// Pixels in a register tile of the direct training kernels, at most [`MAX_PIXELS`].
    const PIXELS: usize;

    unsafe fn zero() -> Self::V;
    unsafe fn load(p: *const Self::T) -> Self::V;
    unsafe fn store(p: *mut Self::T, v: Self::V);
    unsafe fn splat(p: *const Self::T) -> Self::V;
    unsafe fn fma(a: Self::V, b: Self::V, acc: Self::V) -> Self::V;
    /// `acc - a · b`
    unsafe fn fnma(a: Self::V, b: Self::V, acc: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The lanes of `v` where `y` is above zero, and zeros elsewhere.
    unsafe fn where_positive(y: Self::V, v: Self::V) -> Self::V;
    unsafe fn index(lane_of: impl Fn(usize) -> usize) -> Self::Index;
    unsafe fn permute(v: Self::V, index: Self::Index) -> Self::V;

    /// Whether [`load_broadcast4`](Self::load_broadcast4) is one instruction.
    const HAS_BROADCAST4: bool = false;

    /// Loads a vector, and repeats element `AT` of each four neighbouring elements. The default is a load and a permutation.
    #[inline(always)]
    unsafe fn load_broadcast4<const AT: usize>(p: *const Self::T) -> Self::V {
        // SAFETY: the caller has the instructions and promises a vector; indices are below LANES, which four divides.
        unsafe { Self::permute(Self::load(p), Self::index(|lane| lane / 4 * 4 + AT)) }
    }

    /// Repeats two elements through the vector. The default is plain Rust, for sets where speed does not matter here.
    #[inline(always)]
    unsafe fn splat_two(p: *const Self::T) -> Self::V {
        let mut values = [Self::T::ZERO; MAX_LANES];
        // SAFETY: the caller promises two elements, and a vector has MAX_LANES at most.
        unsafe {
            for (i, value) in values[..Self::LANES].iter_mut().enumerate() {
                *value = *p.add(i % 2);
            }
            Self::load(values.as_ptr())
        }
    }

    /// Stores the first `LANES` elements of `M` rows as columns of `M` elements, one after the other. `to` points to
    /// room for the columns and for `LANES` more elements, which may be overwritten.
    #[inline(always)]
    unsafe fn store_columns<const M: usize>(rows: [*const Self::T; M], to: *mut Self::T) {
        // SAFETY: the caller promises LANES elements per row, and room for the columns.
        unsafe {
            for i in 0..Self::LANES {
                for m in 0..M {
                    *to.add(i * M + m) = *rows[m].add(i);
                }
            }
        }
    }

    /// Loads a vector of bf16 and widens it. The default is plain Rust, for vectors without instructions for it.
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self::V {
        let mut values = [Self::T::ZERO; MAX_LANES];
        // SAFETY: the caller promises LANES elements, of which a vector has MAX_LANES at most.
        unsafe {
            for (i, value) in values[..Self::LANES].iter_mut().enumerate() {
                *value = Self::T::of_f64((*p.add(i)).widen() as f64);
            }
            Self::load(values.as_ptr())
        }
    }

    /// Stores a vector as bf16, rounded to the nearest, ties to even.
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: Self::V) {
        let mut values = [Self::T::ZERO; MAX_LANES];
        // SAFETY: as above.
        unsafe {
            Self::store(values.as_mut_ptr(), v);
            for (i, value) in values[..Self::LANES].iter().enumerate() {
                *p.add(i) = bf16::narrow(value.as_f64() as f32);
            }
        }
    }
}

/// The most elements per vector of any instruction set.
pub const MAX_LANES: usize = 16;

/// The most pixels in a register tile of any instruction set.
pub const MAX_PIXELS: usize = 12;

/// The same pointer, as one that the compiler knows nothing about: what is loaded through it is loaded again, into the
/// instruction that needs it, and takes up no register in between.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block)] // the pointer passes through the assembly, and is not followed
pub fn opaque<T>(mut p: *const T) -> *const T {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: the assembly is empty.
    unsafe {
        std::arch::asm!("/* {0} */", inout(reg) p, options(nomem, nostack, preserves_flags))
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        p = std::hint::black_box(p);
    }
    p
}

/// A kernel that is compiled separately for each instruction set.
pub trait Kernel<T: Element>: Sized {
    /// The kernel's code. Implementations are `#[inline(always)]`, so that it is compiled with `S`'s instructions.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions.
    unsafe fn with_simd<S: Simd<T = T>>(self);
}
