//! Max-pooling and global average pooling.

use crate::config::Pool2dConfig;
use crate::devices::cuda::launch::Launch;
use crate::devices::cuda::memory::{Elements, Stored, aligned, pointer, uninitialised, width};
use crate::devices::cuda::pointwise::{THREADS, grid};
use crate::devices::cuda::sources::{Module, POOL};
use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType};

pub(super) fn module(dtype: DType, width: usize, position: &'static str) -> candle_core::Result<Module> {
    Ok(Module::new(&POOL).define_type("ELEMENT", dtype)?.define("WIDTH", width).define("POSITION", position))
}

/// The type of a position in a window, in the kernels and as a tensor.
fn position(config: &Pool2dConfig) -> (&'static str, DType) {
    if config.kernel <= 16 { ("u8", DType::U8) } else { ("u32", DType::U32) }
}

fn sizes(input: (usize, usize, usize, usize), output: (usize, usize), config: &Pool2dConfig) -> [usize; 9] {
    let (n, c, h, w) = input;
    [n, c, h, w, output.0, output.1, config.kernel, config.stride, config.padding]
}

/// The maxima (N, H', W', C) of `x` (N, C, H, W), and the position of each in its window.
pub(crate) fn max_pool(
    x: Stored,
    output: (usize, usize),
    config: &Pool2dConfig,
) -> candle_core::Result<(CudaStorage, CudaStorage)> {
    let input = x.1.shape().dims4()?;
    let (device, dtype, from) = (x.0.device(), x.0.dtype(), Elements::channels_last(x)?);
    let count = input.0 * input.1 * output.0 * output.1;
    let (name, position) = position(config);
    let (y, at) = (uninitialised(device, count, dtype)?, uninitialised(device, count, position)?);
    let width = if aligned(&[from.pointer()?]) { width(dtype, input.1) } else { 1 };
    let launch = Launch::new(device, module(dtype, width, name)?, "max_pool").pointer(from.pointer()?);
    let launch = launch.storage(&y)?.storage(&at)?.ints(&sizes(input, output, config))?;
    // SAFETY: `x` has the sizes that are passed, and the results have one element for each window and
    // channel.
    unsafe { launch.enqueue(grid(count / width), THREADS, 0) }?;
    Ok((y, at))
}

/// The gradient (N, H, W, C) of an input of sizes `input` (N, C, H, W), from the output's (N, H', W', C).
pub(crate) fn max_pool_gradient(
    gradient: Stored,
    at: &CudaStorage,
    input: (usize, usize, usize, usize),
    output: (usize, usize),
    config: &Pool2dConfig,
) -> candle_core::Result<CudaStorage> {
    let (device, dtype, from) = (gradient.0.device(), gradient.0.dtype(), Elements::row_major(gradient)?);
    let count = input.0 * input.1 * input.2 * input.3;
    let out = uninitialised(device, count, dtype)?;
    let width = if aligned(&[from.pointer()?]) { width(dtype, input.1) } else { 1 };
    let launch = Launch::new(device, module(dtype, width, position(config).0)?, "max_pool_gradient");
    let launch = launch.pointer(from.pointer()?).storage(at)?.storage(&out)?;
    let launch = launch.ints(&sizes(input, output, config))?;
    // SAFETY: as above; the gradient and the positions are as long as the output.
    unsafe { launch.enqueue(grid(count / width), THREADS, 0) }?;
    Ok(out)
}

/// The mean (N, C) over the pixels of each channel of `x` (N, C, H, W).
pub(crate) fn average_pool(x: Stored) -> candle_core::Result<CudaStorage> {
    let (n, c, h, w) = x.1.shape().dims4()?;
    let (device, dtype, from) = (x.0.device(), x.0.dtype(), Elements::channels_last(x)?);
    let out = uninitialised(device, n * c, dtype)?;
    let width = if aligned(&[from.pointer()?]) { width(dtype, c) } else { 1 };
    let launch =
        average(device, dtype, width, "average_pool", (from.pointer()?, pointer(&out, 0)?), [n, h * w, c])?;
    // SAFETY: n·h·w·c elements are read, n·c written.
    unsafe { launch.enqueue([(n * c / width).div_ceil(THREADS), 1, 1], THREADS, 0) }?;
    Ok(out)
}

/// The gradient (N, H, W, C) of the input, from that of the means (N, C).
pub(crate) fn average_pool_gradient(
    gradient: Stored,
    (n, c, h, w): (usize, usize, usize, usize),
) -> candle_core::Result<CudaStorage> {
    let (device, dtype, from) = (gradient.0.device(), gradient.0.dtype(), Elements::row_major(gradient)?);
    let out = uninitialised(device, n * h * w * c, dtype)?;
    let width = if aligned(&[from.pointer()?]) { width(dtype, c) } else { 1 };
    let operands = (from.pointer()?, pointer(&out, 0)?);
    let launch = average(device, dtype, width, "average_pool_gradient", operands, [n, h * w, c])?;
    // SAFETY: n·c elements are read, n·h·w·c written.
    unsafe { launch.enqueue(grid(n * h * w * c / width), THREADS, 0) }?;
    Ok(out)
}

fn average<'a>(
    device: &'a CudaDevice,
    dtype: DType,
    width: usize,
    function: &'static str,
    (from, to): (u64, u64),
    sizes: [usize; 3],
) -> candle_core::Result<Launch<'a>> {
    let launch = Launch::new(device, module(dtype, width, "u8")?, function).pointer(from).pointer(to);
    launch.int(sizes[0])?.int(sizes[1])?.int(sizes[2])
}
