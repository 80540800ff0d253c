//! Which device computes what.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(any(feature = "metal", test))]
pub(crate) mod metal;

use candle_core::{DType, Tensor};
use resnext_kernels::ConvShape;

/// Whether this crate's kernels, the CPU's or CUDA's, take a tensor of this type and place.
pub(crate) fn has_kernel(x: &Tensor) -> bool {
    has_cpu_kernel(x) || has_cuda_kernel(x)
}

pub(crate) fn has_cpu_kernel(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64 | DType::BF16)
}

pub(crate) fn has_cuda_kernel(x: &Tensor) -> bool {
    cfg!(feature = "cuda")
        && x.device().is_cuda()
        && matches!(x.dtype(), DType::F32 | DType::BF16 | DType::F16)
}

/// Whether this crate's Metal kernels compute this convolution of `x`.
#[cfg(feature = "metal")]
pub(crate) fn has_metal_kernel(x: &Tensor, shape: &ConvShape) -> bool {
    metal::takes(x, shape)
}

/// This build has none.
#[cfg(not(feature = "metal"))]
pub(crate) fn has_metal_kernel(_: &Tensor, _: &ConvShape) -> bool {
    false
}

/// Whether parameters in `dtype` are the master copies of what computes beside `x`: f32 beside a half type.
pub(crate) fn is_master(dtype: DType, x: &Tensor) -> bool {
    dtype == DType::F32 && matches!(x.dtype(), DType::BF16 | DType::F16)
}
