//! How fast a device's memory is, by which kernels are judged.

use super::launch::Launch;
use super::memory::{pointer, uninitialised};
use super::pointwise::{Pointwise, THREADS, module};
use super::settings::cuda_device;
use crate::Result;
use candle_core::{DType, Device};
use std::time::Instant;

/// Bytes a second of a copy by a kernel of ours, read and written together: the best of five, of a buffer much larger
/// than any cache.
///
/// # Errors
/// If the device is not a CUDA one or has no GiB to spare.
pub fn memory_bandwidth(device: &Device) -> Result<f64> {
    const COUNT: usize = 1 << 27; // of f32: half a GiB each
    const COPIES: usize = 10;
    let device = cuda_device("memory_bandwidth", device)?;
    let stream = device.cuda_stream();
    let (from, to) = (uninitialised(device, COUNT, DType::F32)?, uninitialised(device, COUNT, DType::F32)?);
    let mut best = f64::INFINITY;
    for round in 0..6 {
        stream.synchronize().map_err(candle_core::Error::wrap)?;
        let start = Instant::now();
        for _ in 0..COPIES {
            let launch = Launch::new(device, module(DType::F32, DType::F32, 4)?, "pointwise");
            let launch =
                launch.pointer(pointer(&from, 0)?).pointer(pointer(&from, 0)?).pointer(pointer(&to, 0)?);
            let launch = launch.long(COUNT).int(Pointwise::Copy as usize)?.float(0.0);
            // SAFETY: both buffers have COUNT f32; what their bits are does not matter to a copy.
            unsafe { launch.run([COUNT / 4 / THREADS, 1, 1], THREADS, 0) }?;
        }
        stream.synchronize().map_err(candle_core::Error::wrap)?;
        // The first round compiles the kernel.
        if round > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok((2 * 4 * COUNT * COPIES) as f64 / best)
}
