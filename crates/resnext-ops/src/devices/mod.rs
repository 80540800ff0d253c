//! Which code computes an operation, by device and type.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(any(feature = "metal", test))]
pub(crate) mod metal;

use candle_core::{DType, Tensor};
use resnext_kernels::ConvShape;

/// The code that computes an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The CPU kernels of `resnext-kernels`: f32, f64 and bf16.
    Cpu,
    /// The kernels in [`cuda`], with cuBLAS and cuDNN: f32, bf16 and f16.
    Cuda,
    /// The kernels in [`metal`], which compute grouped 3×3 convolutions: f32, bf16 and f16.
    Metal,
    /// A composite of candle's operations, for everything else. It is in candle's graph, not on the tape.
    Candle,
}

impl Backend {
    /// The backend of operations on `x`, except for convolutions on Metal.
    pub(crate) fn of(x: &Tensor) -> Self {
        match x.dtype() {
            DType::F32 | DType::F64 | DType::BF16 if x.device().is_cpu() => Backend::Cpu,
            DType::F32 | DType::BF16 | DType::F16 if cfg!(feature = "cuda") && x.device().is_cuda() => {
                Backend::Cuda
            }
            _ => Backend::Candle,
        }
    }

    /// The backend of a convolution of `x`.
    pub(crate) fn of_conv(x: &Tensor, shape: &ConvShape) -> Self {
        if on_metal(x, shape) { Backend::Metal } else { Backend::of(x) }
    }
}

/// Whether [`metal`]'s kernels support a convolution of `x`.
#[cfg(feature = "metal")]
fn on_metal(x: &Tensor, shape: &ConvShape) -> bool {
    metal::launch::supports(x, shape)
}

/// Always false: this build has no Metal kernels.
#[cfg(not(feature = "metal"))]
fn on_metal(_: &Tensor, _: &ConvShape) -> bool {
    false
}

/// Whether kernels of this project, the CPU's or CUDA's, compute operations on `x`, so that they go on the
/// tape.
pub(crate) fn has_kernel(x: &Tensor) -> bool {
    Backend::of(x) != Backend::Candle
}

/// Whether a parameter of type `dtype` is the f32 master copy of one that is used in x's half-precision type.
pub(crate) fn is_master(dtype: DType, x: &Tensor) -> bool {
    dtype == DType::F32 && matches!(x.dtype(), DType::BF16 | DType::F16)
}
