//! Convolution on CUDA, and the choice of the implementation.

#[cfg(feature = "cudnn")]
mod cudnn;
mod gemm;
pub(crate) mod general;
pub(crate) mod grouped;
pub(crate) mod job;
pub(crate) mod weights;

use crate::devices::cuda::conv::job::{Direction, Job};
use crate::devices::cuda::launch::Launch;
use crate::devices::cuda::log::log_call;
use crate::devices::cuda::memory::{Elements, Stored, uninitialised};
use crate::devices::cuda::pointwise;
use crate::devices::cuda::settings::{Convolutions, convolutions};
#[cfg(feature = "cudnn")]
use crate::error::Error;
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CudaStorage, DType};
use resnext_kernels::ConvShape;

/// The output (N, H', W', Cout) from `x` (N, C, H, W) and a weight of x's type or f32.
pub(crate) fn forward(shape: &ConvShape, x: Stored, weight: Stored) -> candle_core::Result<CudaStorage> {
    let (image, other) = (Elements::channels_last(x)?, Elements::row_major(weight)?);
    convolve(shape, Direction::Forward, x.0, weight.0.dtype(), &image, &other)
}

/// The gradient (N, H, W, C) of the input, from the output's (N, H', W', Cout) and the weight.
pub(crate) fn input_gradient(
    shape: &ConvShape,
    gradient: Stored,
    weight: Stored,
) -> candle_core::Result<CudaStorage> {
    let (image, other) = (Elements::row_major(gradient)?, Elements::row_major(weight)?);
    convolve(shape, Direction::Input, gradient.0, weight.0.dtype(), &image, &other)
}

/// The gradient of the weight, of type `dtype`, from `x` (N, C, H, W) and the output's gradient
/// (N, H', W', Cout).
pub(crate) fn weight_gradient(
    shape: &ConvShape,
    x: Stored,
    gradient: Stored,
    dtype: DType,
) -> candle_core::Result<CudaStorage> {
    let (image, other) = (Elements::row_major(gradient)?, Elements::channels_last(x)?);
    convolve(shape, Direction::Weight, x.0, dtype, &image, &other)
}

/// Computes a convolution by the first implementation that supports it, in the order of [`Convolutions`].
fn compute(job: &Job) -> candle_core::Result<CudaStorage> {
    let choice = convolutions();
    let empty = job.shape.input_len() == 0 || job.shape.output_len() == 0;
    if empty {
        log_call("fill");
        return job.device.zeros_impl(&job.result_len().into(), job.result_dtype());
    }
    if choice != Convolutions::Cudnn {
        if let Some(result) = grouped::try_compute(job)? {
            return Ok(result);
        }
        if let Some(result) = gemm::try_compute(job)? {
            return Ok(result);
        }
    }
    #[cfg(feature = "cudnn")]
    if choice != Convolutions::Ours {
        if let Some(result) = cudnn::try_compute(job)? {
            return Ok(result);
        }
        if choice == Convolutions::Cudnn {
            let message = format!("cuDNN has no usable algorithm for {:?} of {:?}", job.direction, job.shape);
            return Err(Error::Config { op: "conv2d", message }.into());
        }
    }
    general::compute(job)
}

/// Computes the result of `direction` on the device and in the type of `images`.
fn convolve(
    shape: &ConvShape,
    direction: Direction,
    images: &CudaStorage,
    weight_dtype: DType,
    image: &Elements,
    other: &Elements,
) -> candle_core::Result<CudaStorage> {
    let (device, dtype) = (images.device(), images.dtype());
    let (image, other) = (image.pointer()?, other.pointer()?);
    compute(&Job { device, shape, direction, dtype, weight_dtype, image, other })
}

/// Adds a bias (C) to `y` (…, C), in place.
pub(crate) fn add_bias(
    y: &CudaStorage,
    len: usize,
    channels: usize,
    bias: Stored,
) -> candle_core::Result<()> {
    let (device, from) = (y.device(), Elements::row_major(bias)?);
    let module = pointwise::module(y.dtype(), bias.0.dtype(), 1)?;
    let launch = Launch::new(device, module, "add_bias").storage(y)?.pointer(from.pointer()?);
    let launch = launch.long(len).int(channels)?;
    // SAFETY: `y` has `len` elements and the bias `channels`, which the caller checked.
    unsafe { launch.enqueue(pointwise::grid(len), pointwise::THREADS, 0) }
}

/// The sum (C) of a gradient (…, C) over all but its channels, of type `dtype`.
pub(crate) fn bias_gradient(
    gradient: Stored,
    channels: usize,
    dtype: DType,
) -> candle_core::Result<CudaStorage> {
    let device = gradient.0.device();
    let rows = gradient.1.shape().elem_count() / channels.max(1);
    let from = Elements::row_major(gradient)?;
    let out = uninitialised(device, channels, dtype)?;
    let module = pointwise::module(gradient.0.dtype(), dtype, 1)?;
    let launch = Launch::new(device, module, "sum_rows").pointer(from.pointer()?).storage(&out)?;
    let launch = launch.int(rows)?.int(channels)?;
    // SAFETY: rows · channels elements are read and `channels` written.
    unsafe { launch.enqueue([channels.div_ceil(pointwise::THREADS), 1, 1], pointwise::THREADS, 0) }?;
    Ok(out)
}
