//! Any convolution, as an implicit gemm by `kernels/conv.cu`.

use crate::devices::cuda::conv::job::{Direction, Job};
use crate::devices::cuda::conv::weights;
use crate::devices::cuda::launch::{Launch, int};
use crate::devices::cuda::memory::uninitialised;
use crate::devices::cuda::settings::multiprocessors;
use crate::devices::cuda::sources::{CONV, Module};
use candle_core::{CudaStorage, DType};

/// The rows and columns of the result that a block computes.
const TILE: usize = 64;
/// Bytes of shared memory per block: two tiles with a depth of 16.
const SHARED: usize = 2 * 16 * (TILE + 4) * 4;

pub(crate) fn module(direction: Direction, dtype: DType, weight: DType) -> candle_core::Result<Module> {
    let number = match direction {
        Direction::Forward => 0,
        Direction::Input => 1,
        Direction::Weight => 2,
    };
    Module::new(&CONV)
        .define_type("ELEMENT", dtype)?
        .define_type("WEIGHT", weight)
        .map(|m| m.define("DIRECTION", number))
}

/// Computes the job, whatever its convolution.
pub(super) fn compute(job: &Job) -> candle_core::Result<CudaStorage> {
    let (device, s) = (job.device, job.shape);
    let (group_in, group_out, taps) = (s.group_in(), s.group_out(), s.kernel_positions());
    let (out_pixels, in_pixels) = (s.batch * s.out_h * s.out_w, s.batch * s.in_h * s.in_w);
    int(out_pixels.max(in_pixels))?;
    let (rows, columns) = match job.direction {
        Direction::Forward => (out_pixels, group_out),
        Direction::Input => (in_pixels, group_in),
        Direction::Weight => (group_out, taps * group_in),
    };
    let blocks = rows.div_ceil(TILE) * columns.div_ceil(TILE) * s.config.groups;
    let shares = match job.direction {
        Direction::Weight => (4 * multiprocessors(device)? / blocks).clamp(1, out_pixels.div_ceil(256)),
        _ => 1,
    };
    let out = match job.direction {
        Direction::Weight => uninitialised(device, shares * s.weight_len(), DType::F32)?,
        _ => uninitialised(device, job.result_len(), job.dtype)?,
    };
    let sizes =
        [s.batch, s.in_channels, s.in_h, s.in_w, s.out_channels, s.out_h, s.out_w, s.kernel_h, s.kernel_w];
    let c = s.config;
    let settings = [c.stride, c.padding, c.dilation, c.groups];
    let shape: Vec<usize> = sizes.into_iter().chain(settings).collect();
    let weight = if job.direction == Direction::Weight { job.dtype } else { job.weight_dtype };
    let launch = Launch::new(device, module(job.direction, job.dtype, weight)?, "conv")
        .pointer(job.image)
        .pointer(job.other)
        .storage(&out)?
        .ints(&shape)?
        .int(shares)?;
    let grid = [rows.div_ceil(TILE) * shares, columns.div_ceil(TILE), c.groups];
    // SAFETY: the operands are as long as the shape says, and so is the result, or each share's part of it.
    unsafe { launch.enqueue(grid, 256, SHARED) }?;
    match job.direction {
        Direction::Weight => weights::sum_parts(device, &out, shares, s.weight_len(), job.weight_dtype),
        _ => Ok(out),
    }
}
