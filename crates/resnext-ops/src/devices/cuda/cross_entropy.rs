//! Cross-entropy and its gradient.

use crate::devices::cuda::launch::Launch;
use crate::devices::cuda::memory::{Elements, Stored, uninitialised};
use crate::devices::cuda::sources::{CROSS_ENTROPY, Module};
use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType};

const THREADS: usize = 128;
const SHARED: usize = THREADS * 4;

pub(super) fn module(dtype: DType) -> candle_core::Result<Module> {
    Module::new(&CROSS_ENTROPY).define_type("ELEMENT", dtype)
}

/// The mean cross-entropy, f32, of `logits` (N, classes) and `labels` (N, u32).
pub(crate) fn loss(logits: Stored, labels: Stored, smoothing: f64) -> candle_core::Result<CudaStorage> {
    let (n, classes) = logits.1.shape().dims2()?;
    let (device, dtype) = (logits.0.device(), logits.0.dtype());
    let (from, labels) = (Elements::row_major(logits)?, Elements::row_major(labels)?);
    let (losses, loss) = (uninitialised(device, n, DType::F32)?, uninitialised(device, 1, DType::F32)?);
    let launch = Launch::new(device, module(dtype)?, "example_losses").pointer(from.pointer()?);
    let launch = launch.pointer(labels.pointer()?).storage(&losses)?.int(classes)?.float(smoothing);
    // SAFETY: a block for each of n rows of `classes` logits, one label and one loss.
    unsafe { launch.enqueue([n, 1, 1], THREADS, SHARED) }?;
    let launch = Launch::new(device, module(dtype)?, "mean_loss").storage(&losses)?;
    let launch = launch.storage(&loss)?.int(n)?;
    // SAFETY: n losses are read and one written.
    unsafe { launch.enqueue([1, 1, 1], THREADS, SHARED) }?;
    Ok(loss)
}

/// The gradient of the logits, from that of the loss, a single f32 on the device.
pub(crate) fn loss_gradient(
    logits: Stored,
    labels: Stored,
    gradient: Stored,
    smoothing: f64,
) -> candle_core::Result<CudaStorage> {
    let (n, classes) = logits.1.shape().dims2()?;
    let (device, dtype) = (logits.0.device(), logits.0.dtype());
    let (from, labels) = (Elements::row_major(logits)?, Elements::row_major(labels)?);
    let gradient = Elements::row_major(gradient)?;
    let out = uninitialised(device, n * classes, dtype)?;
    let launch = Launch::new(device, module(dtype)?, "logits_gradient").pointer(from.pointer()?);
    let launch = launch.pointer(labels.pointer()?).pointer(gradient.pointer()?).storage(&out)?;
    let launch = launch.int(classes)?.float(smoothing);
    // SAFETY: as above, with a gradient as long as the logits.
    unsafe { launch.enqueue([n, 1, 1], THREADS, SHARED) }?;
    Ok(out)
}
