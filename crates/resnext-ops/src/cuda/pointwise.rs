//! Element-wise operations.

use super::launch::Launch;
use super::memory::{Elements, Stored, aligned, pointer, uninitialised, width};
use super::sources::{Module, POINTWISE};
use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType};

pub(super) const THREADS: usize = 256;

/// What becomes of `a` and `b`.
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
    Residue = 5,
}

pub(super) fn module(dtype: DType, parameter: DType, width: usize) -> candle_core::Result<Module> {
    let module =
        Module::new(&POINTWISE).define_type("ELEMENT", dtype)?.define_type("PARAMETER", parameter)?;
    Ok(module.define("WIDTH", width))
}

/// Blocks for so many accesses; each thread takes as many as there are left.
pub(super) fn grid(accesses: usize) -> [usize; 3] {
    [accesses.div_ceil(THREADS).min(1 << 16), 1, 1]
}

/// Of two tensors of one shape and type, in any strides; the result is in row-major order.
pub(crate) fn pointwise(operation: Pointwise, a: Stored, b: Stored) -> candle_core::Result<CudaStorage> {
    run(operation, a, b, 0)
}

/// Integers modulo an odd number, from -(modulus - 1)/2 to (modulus - 1)/2.
pub(crate) fn residue(x: Stored, modulus: u32) -> candle_core::Result<CudaStorage> {
    run(Pointwise::Residue, x, x, modulus)
}

fn run(operation: Pointwise, a: Stored, b: Stored, modulus: u32) -> candle_core::Result<CudaStorage> {
    let (from, other) = (Elements::row_major(a)?, Elements::row_major(b)?);
    let (device, dtype, count) = (a.0.device(), a.0.dtype(), a.1.shape().elem_count());
    let out = uninitialised(device, count, dtype)?;
    let operands = [from.pointer()?, other.pointer()?];
    let width = if aligned(&operands) { width(dtype, count) } else { 1 };
    let launch = Launch::new(device, module(dtype, dtype, width)?, "pointwise").pointer(operands[0]);
    let launch =
        launch.pointer(operands[1]).pointer(pointer(&out, 0)?).long(count).int(operation as usize)?;
    let launch = launch.float(f64::from(modulus));
    // SAFETY: both operands and the result have `count` elements, which accesses of `width` divide.
    unsafe { launch.run(grid(count / width), THREADS, 0) }?;
    Ok(out)
}
