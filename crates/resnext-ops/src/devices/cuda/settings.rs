//! Process-wide CUDA settings and device properties.

use crate::error::{Error, Result};
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute;
use candle_core::{CudaDevice, Device};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Which implementation computes convolutions on CUDA devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convolutions {
    /// This project's kernels for grouped 3×3 convolutions with 4, 8, 16 or 32 channels per group, cuBLAS for
    /// dense 1×1 ones, and for all others cuDNN or, without the feature `cudnn`, this project's kernel.
    Auto,
    /// Like `Auto`, but without cuDNN.
    Ours,
    /// cuDNN for all convolutions.
    Cudnn,
}

static CONVOLUTIONS: AtomicU8 = AtomicU8::new(0);
static TF32: AtomicBool = AtomicBool::new(false);

/// Chooses the implementation of convolutions for the whole process.
///
/// # Errors
/// If cuDNN is chosen in a build without the feature `cudnn`.
pub fn set_convolutions(choice: Convolutions) -> Result<()> {
    if choice == Convolutions::Cudnn && !cfg!(feature = "cudnn") {
        let message = "cuDNN was chosen, but this build does not have the feature cudnn".to_string();
        return Err(Error::Config { op: "set_convolutions", message });
    }
    CONVOLUTIONS.store(choice as u8, Ordering::Relaxed);
    Ok(())
}

/// The implementation of convolutions: [`Convolutions::Auto`] unless [`set_convolutions`] chose another.
pub fn convolutions() -> Convolutions {
    match CONVOLUTIONS.load(Ordering::Relaxed) {
        1 => Convolutions::Ours,
        2 => Convolutions::Cudnn,
        _ => Convolutions::Auto,
    }
}

/// Runs `f` with TF32 on or off, for the whole process. If on, f32 convolutions may round their inputs to
/// TF32's 10 bits of fraction, which tensor cores multiply several times as fast: those of this project's
/// grouped 3×3 kernels, of cuBLAS and of cuDNN.
pub fn with_tf32<T>(on: bool, f: impl FnOnce() -> T) -> T {
    /// Restores the setting, even if `f` panics.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            TF32.store(self.0, Ordering::Relaxed);
        }
    }
    let _before = Before(TF32.swap(on, Ordering::Relaxed));
    f()
}

/// Whether f32 may be rounded to TF32.
pub(super) fn tf32() -> bool {
    TF32.load(Ordering::Relaxed)
}

/// Opens the CUDA device `ordinal` with a stream of its own, so that operations may be called from any thread
/// and need no events.
///
/// # Errors
/// If there is no such device or no driver.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: events order the work of several streams. This device's tensors are all used on its one
        // stream.
        unsafe { cuda.disable_event_tracking() };
    }
    Ok(device)
}

/// The properties of a CUDA device.
#[derive(Debug, Clone)]
pub struct Description {
    /// The driver's name for it.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub capability: (u32, u32),
    /// The number of multiprocessors.
    pub multiprocessors: u32,
}

/// The properties of `device`.
///
/// # Errors
/// If it is not a CUDA device.
pub fn describe(device: &Device) -> Result<Description> {
    let cuda = cuda_device("describe", device)?;
    let stream = cuda.cuda_stream();
    let name = stream.context().name().map_err(candle_core::Error::wrap)?;
    Ok(Description {
        name,
        capability: capability(cuda)?,
        multiprocessors: attribute(cuda, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
    })
}

pub(super) fn cuda_device<'a>(op: &'static str, device: &'a Device) -> Result<&'a CudaDevice> {
    match device {
        Device::Cuda(device) => Ok(device),
        other => {
            Err(Error::Config { op, message: format!("expected a CUDA device, got {:?}", other.location()) })
        }
    }
}

pub(super) fn attribute(device: &CudaDevice, attribute: CUdevice_attribute) -> candle_core::Result<u32> {
    let value = device.cuda_stream().context().attribute(attribute).map_err(candle_core::Error::wrap)?;
    Ok(value.max(0) as u32)
}

pub(super) fn capability(device: &CudaDevice) -> candle_core::Result<(u32, u32)> {
    let (major, minor) =
        device.cuda_stream().context().compute_capability().map_err(candle_core::Error::wrap)?;
    Ok((major.max(0) as u32, minor.max(0) as u32))
}

/// The most bytes of shared memory per block.
pub(super) fn shared_memory(device: &CudaDevice) -> candle_core::Result<usize> {
    let most = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    Ok(attribute(device, most)? as usize)
}

pub(super) fn multiprocessors(device: &CudaDevice) -> candle_core::Result<usize> {
    Ok(attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize)
}
