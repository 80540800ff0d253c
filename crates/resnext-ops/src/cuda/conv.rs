//! Convolution on CUDA: which code computes which.

use super::gemm;
use super::launch::{Launch, log_call};
use super::memory::{Elements, Stored, uninitialised};
use super::settings::{Convolutions, convolutions};
use super::{general, grouped, pointwise};
use crate::Error;
use crate::kernels::ConvShape;
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CudaDevice, CudaStorage, DType};

/// What is computed from what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    /// The output from input and weight.
    Forward,
    /// The input's gradient from the output's and the weight.
    Input,
    /// The weight's gradient from the output's and the input.
    Weight,
}

impl Direction {
    pub(super) const ALL: [Direction; 3] = [Direction::Forward, Direction::Input, Direction::Weight];
}

/// A convolution of elements at two addresses: input or output's gradient, and weight or, for the weight's gradient,
/// the input.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) device: &'a CudaDevice,
    pub(super) shape: &'a ConvShape,
    pub(super) direction: Direction,
    /// Of the images.
    pub(super) dtype: DType,
    /// Of the weight, or of its gradient.
    pub(super) weight_dtype: DType,
    /// Forward the input; else the output's gradient. Channels-last.
    pub(super) image: u64,
    /// Forward, and for the input's gradient, the weight (Cout, Cin/groups, kh, kw); else the input.
    pub(super) other: u64,
}

impl Job<'_> {
    /// Elements of the result.
    pub(super) fn result_len(&self) -> usize {
        match self.direction {
            Direction::Forward => self.shape.output_len(),
            Direction::Input => self.shape.input_len(),
            Direction::Weight => self.shape.weight_len(),
        }
    }

    fn run(self) -> candle_core::Result<CudaStorage> {
        let choice = convolutions();
        let empty = self.shape.input_len() == 0 || self.shape.output_len() == 0;
        if empty {
            log_call("fill");
            return self.device.zeros_impl(&self.result_len().into(), self.result_dtype());
        }
        if choice != Convolutions::Cudnn {
            if let Some(result) = grouped::run(&self)? {
                return Ok(result);
            }
            if let Some(result) = gemm::run(&self)? {
                return Ok(result);
            }
        }
        #[cfg(feature = "cudnn")]
        if choice != Convolutions::Ours {
            if let Some(result) = super::cudnn::run(&self)? {
                return Ok(result);
            }
            if choice == Convolutions::Cudnn {
                let message =
                    format!("cuDNN has no usable algorithm for {:?} of {:?}", self.direction, self.shape);
                return Err(Error::Config { op: "conv2d", message }.into());
            }
        }
        general::run(&self)
    }

    fn result_dtype(&self) -> DType {
        if self.direction == Direction::Weight { self.weight_dtype } else { self.dtype }
    }
}

/// The output (N, H', W', Cout) of `x` (N, C, H, W) and a weight of x's type or f32.
pub(crate) fn forward(shape: &ConvShape, x: Stored, weight: Stored) -> candle_core::Result<CudaStorage> {
    let (image, other) = (Elements::channels_last(x)?, Elements::row_major(weight)?);
    run(shape, Direction::Forward, x.0, weight.0.dtype(), &image, &other)
}

/// The input's gradient (N, H, W, C) from the output's (N, H', W', Cout) and the weight.
pub(crate) fn input_gradient(
    shape: &ConvShape,
    gradient: Stored,
    weight: Stored,
) -> candle_core::Result<CudaStorage> {
    let (image, other) = (Elements::row_major(gradient)?, Elements::row_major(weight)?);
    run(shape, Direction::Input, gradient.0, weight.0.dtype(), &image, &other)
}

/// The weight's gradient, of type `dtype`, from `x` (N, C, H, W) and the output's (N, H', W', Cout).
pub(crate) fn weight_gradient(
    shape: &ConvShape,
    x: Stored,
    gradient: Stored,
    dtype: DType,
) -> candle_core::Result<CudaStorage> {
    let (image, other) = (Elements::row_major(gradient)?, Elements::channels_last(x)?);
    run(shape, Direction::Weight, x.0, dtype, &image, &other)
}

/// Of `images`, whose device and type it has.
fn run(
    shape: &ConvShape,
    direction: Direction,
    images: &CudaStorage,
    weight_dtype: DType,
    image: &Elements,
    other: &Elements,
) -> candle_core::Result<CudaStorage> {
    let (device, dtype) = (images.device(), images.dtype());
    let (image, other) = (image.pointer()?, other.pointer()?);
    Job { device, shape, direction, dtype, weight_dtype, image, other }.run()
}

/// Adds a bias (C) to `y`, (…, C) channels-last.
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
    unsafe { launch.run(pointwise::grid(len), pointwise::THREADS, 0) }
}

/// The sum of a gradient (…, C) over all but its channels, of type `dtype`.
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
    unsafe { launch.run([channels.div_ceil(pointwise::THREADS), 1, 1], pointwise::THREADS, 0) }?;
    Ok(out)
}
