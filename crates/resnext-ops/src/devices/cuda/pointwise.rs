//! Element-wise operations.

use crate::devices::cuda::launch::Launch;
use crate::devices::cuda::memory::{Elements, Stored, aligned, pointer, uninitialised, width};
use crate::devices::cuda::sources::{Module, POINTWISE};
use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType};

pub(super) const THREADS: usize = 256;

/// The result of the operands `a` and `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pointwise {
    /// max(a, 0)
    Relu = 0,
    /// a + b
    Add = 1,
    /// max(a + b, 0)
    AddRelu = 2,
    /// a where b is positive, else 0
    Gate = 3,
    /// a
    Copy = 4,
    /// a - m·round(a / m)
    Modulo = 5,
}

pub(super) fn module(dtype: DType, parameter: DType, width: usize) -> candle_core::Result<Module> {
    let module =
        Module::new(&POINTWISE).define_type("ELEMENT", dtype)?.define_type("PARAMETER", parameter)?;
    Ok(module.define("WIDTH", width))
}

/// The grid for a number of accesses; threads loop over those beyond it.
pub(super) fn grid(accesses: usize) -> [usize; 3] {
    [accesses.div_ceil(THREADS).min(1 << 16), 1, 1]
}

/// Computes `operation` on two tensors of one shape and type, with any strides. The result is in row-major
/// order.
pub(crate) fn pointwise(operation: Pointwise, a: Stored, b: Stored) -> candle_core::Result<CudaStorage> {
    compute(operation, a, b, 0)
}

/// Reduces integers modulo an odd number, to -(modulus - 1)/2..=(modulus - 1)/2.
pub(crate) fn modulo(x: Stored, modulus: u32) -> candle_core::Result<CudaStorage> {
    compute(Pointwise::Modulo, x, x, modulus)
}

/// Copies the elements of a tensor into another of its shape and type.
pub(crate) fn copy(from: Stored, to: Stored) -> candle_core::Result<()> {
    let (Some((first, _)), Some((first_to, _))) = (from.1.contiguous_offsets(), to.1.contiguous_offsets())
    else {
        candle_core::bail!("a copy on CUDA: expected contiguous tensors");
    };
    if (from.1.shape(), from.0.dtype()) != (to.1.shape(), to.0.dtype()) {
        candle_core::bail!("a copy on CUDA: expected tensors of one shape and type");
    }
    let from_at = pointer(from.0, first)?;
    launch(Pointwise::Copy, from, [from_at, from_at], pointer(to.0, first_to)?, 0)
}

/// [`pointwise`], with the modulus of [`Pointwise::Modulo`].
fn compute(operation: Pointwise, a: Stored, b: Stored, modulus: u32) -> candle_core::Result<CudaStorage> {
    let (from, other) = (Elements::row_major(a)?, Elements::row_major(b)?);
    let out = uninitialised(a.0.device(), a.1.shape().elem_count(), a.0.dtype())?;
    launch(operation, a, [from.pointer()?, other.pointer()?], pointer(&out, 0)?, modulus)?;
    Ok(out)
}

/// Launches `operation` from the addresses `operands` to `out`, which have the type and number of elements of
/// `like`.
fn launch(
    operation: Pointwise,
    like: Stored,
    operands: [u64; 2],
    out: u64,
    modulus: u32,
) -> candle_core::Result<()> {
    let (device, dtype, count) = (like.0.device(), like.0.dtype(), like.1.shape().elem_count());
    let width = if aligned(&operands) && aligned(&[out]) { width(dtype, count) } else { 1 };
    let launch = Launch::new(device, module(dtype, dtype, width)?, "pointwise").pointer(operands[0]);
    let launch = launch.pointer(operands[1]).pointer(out).long(count).int(operation as usize)?;
    let launch = launch.float(f64::from(modulus));
    // SAFETY: both operands and the result have `count` elements, which accesses of `width` divide.
    unsafe { launch.enqueue(grid(count / width), THREADS, 0) }
}
