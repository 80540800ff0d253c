//! Conversion of weights to another order or type, and sums of partial gradients.

use crate::devices::cuda::launch::Launch;
use crate::devices::cuda::memory::uninitialised;
use crate::devices::cuda::sources::{Module, SUM_PARTS, WEIGHTS};
use candle_core::{CudaDevice, CudaStorage, DType};
use resnext_kernels::ConvShape;

const THREADS: usize = 256;

pub(crate) fn module(element: DType, weight: DType) -> candle_core::Result<Module> {
    Module::new(&WEIGHTS).define_type("ELEMENT", element)?.define_type("WEIGHT", weight)
}

pub(crate) fn sum_parts_module(output: DType) -> candle_core::Result<Module> {
    Module::new(&SUM_PARTS).define_type("OUTPUT", output)
}

pub(super) fn count(shape: &ConvShape) -> usize {
    shape.out_channels * shape.group_in() * shape.kernel_positions()
}

/// Converts weights (out, in, kh·kw) of type `dtype` at `from` to (out, kh·kw, in) of type `element`.
pub(super) fn to_elements(
    device: &CudaDevice,
    shape: &ConvShape,
    from: u64,
    dtype: DType,
    element: DType,
) -> candle_core::Result<CudaStorage> {
    let out = uninitialised(device, count(shape), element)?;
    convert(device, module(element, dtype)?, "to_elements", shape, from, &out)?;
    Ok(out)
}

/// Converts weights (out, kh·kw, in) of type `element` at `from` to (out, in, kh·kw) of type `dtype`.
#[cfg(feature = "cudnn")]
pub(super) fn from_elements(
    device: &CudaDevice,
    shape: &ConvShape,
    from: u64,
    element: DType,
    dtype: DType,
) -> candle_core::Result<CudaStorage> {
    let out = uninitialised(device, count(shape), dtype)?;
    convert(device, module(element, dtype)?, "from_elements", shape, from, &out)?;
    Ok(out)
}

fn convert(
    device: &CudaDevice,
    module: Module,
    function: &'static str,
    shape: &ConvShape,
    from: u64,
    out: &CudaStorage,
) -> candle_core::Result<()> {
    let count = count(shape);
    let launch = Launch::new(device, module, function).pointer(from).storage(out)?;
    let launch = launch.int(count)?.int(shape.group_in())?.int(shape.kernel_positions())?;
    // SAFETY: both are `count` elements of the module's types: the weights of a convolution of this shape.
    unsafe { launch.enqueue([count.div_ceil(THREADS).min(4096), 1, 1], THREADS, 0) }
}

/// The sum, of type `dtype`, of `parts` vectors of `count` f32, which follow each other in `from`.
pub(super) fn sum_parts(
    device: &CudaDevice,
    from: &CudaStorage,
    parts: usize,
    count: usize,
    dtype: DType,
) -> candle_core::Result<CudaStorage> {
    let out = uninitialised(device, count, dtype)?;
    let launch = Launch::new(device, sum_parts_module(dtype)?, "sum_parts");
    let launch = launch.storage(from)?.storage(&out)?.int(count)?.int(parts)?;
    // SAFETY: `from` has parts · count f32, `out` count elements of the module's type.
    unsafe { launch.enqueue([count.div_ceil(THREADS), 1, 1], THREADS, 0) }?;
    Ok(out)
}
