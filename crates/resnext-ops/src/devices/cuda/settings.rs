//! What a process asks of CUDA, and what a device is.

use crate::error::{Error, Result};
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute;
use candle_core::{CudaDevice, Device};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Which code computes convolutions on CUDA devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convolutions {
    /// The kernel of ours for grouped 3×3 with 4, 8, 16 or 32 channels a group; cuBLAS for dense 1×1; for any other
    /// cuDNN, or without the feature `cudnn` a kernel of ours.
    Auto,
    /// As `Auto` without cuDNN.
    Ours,
    /// cuDNN for all.
    Cudnn,
}

static CONVOLUTIONS: AtomicU8 = AtomicU8::new(0);
static TF32: AtomicBool = AtomicBool::new(false);

/// Chooses the code that computes convolutions, for the whole process.
///
/// # Errors
/// If cuDNN is asked for in a build without the feature `cudnn`.
pub fn set_convolutions(choice: Convolutions) -> Result<()> {
    if choice == Convolutions::Cudnn && !cfg!(feature = "cudnn") {
        let message = "cuDNN is asked for, but this build is without the feature cudnn".to_string();
        return Err(Error::Config { op: "set_convolutions", message });
    }
    CONVOLUTIONS.store(choice as u8, Ordering::Relaxed);
    Ok(())
}

/// What computes convolutions; [`Convolutions::Auto`] until [`set_convolutions`].
pub fn convolutions() -> Convolutions {
    match CONVOLUTIONS.load(Ordering::Relaxed) {
        1 => Convolutions::Ours,
        2 => Convolutions::Cudnn,
        _ => Convolutions::Auto,
    }
}

/// Runs `f`, in which convolutions may round f32 to TF32's 10 bits of fraction, which tensor cores multiply several times
/// as fast: those by the grouped 3×3 kernels of ours, cuBLAS and cuDNN, of the whole process. Else none may.
pub fn with_tf32<T>(on: bool, f: impl FnOnce() -> T) -> T {
    /// Takes the setting back, after a panic of `f` too.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            TF32.store(self.0, Ordering::Relaxed);
        }
    }
    let _before = Before(TF32.swap(on, Ordering::Relaxed));
    f()
}

/// Whether f32 may be rounded to TF32 now.
pub(super) fn tf32() -> bool {
    TF32.load(Ordering::Relaxed)
}

/// The CUDA device `ordinal` with a stream of its own, as this crate's operations like it: they may be called from any
/// thread, and cost no events.
///
/// # Errors
/// If there is no such device or no driver.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: events order the work of several streams. This device's tensors are all used on its one stream.
        unsafe { cuda.disable_event_tracking() };
    }
    Ok(device)
}

/// What a CUDA device is.
#[derive(Debug, Clone)]
pub struct Description {
    /// As the driver names it.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub capability: (u32, u32),
    /// How many of these it has.
    pub multiprocessors: u32,
}

/// Describes a device.
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

/// Bytes of shared memory that a block may have.
pub(super) fn shared_memory(device: &CudaDevice) -> candle_core::Result<usize> {
    let most = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    Ok(attribute(device, most)? as usize)
}

pub(super) fn multiprocessors(device: &CudaDevice) -> candle_core::Result<usize> {
    Ok(attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize)
}
