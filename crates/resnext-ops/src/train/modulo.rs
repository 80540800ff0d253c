//! Arithmetic modulo an odd number in floating point, for proofs by exact computation.

#[cfg(feature = "cuda")]
use crate::devices::cuda::pointwise;
use crate::devices::has_kernel;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::layout::{channels_last, from_nhwc};
use crate::shape::check_rank;
use crate::train::residual::add;
use crate::train::tape::{Output, apply1};
use crate::train::upcast::with_upcast;
#[cfg(feature = "cuda")]
use candle_core::DType;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Shape, Tensor};

/// Reduces each element of `x` (N, C, H, W), an integer, modulo an odd `modulus` to its representative in
/// `-(modulus - 1)/2..=(modulus - 1)/2`. The gradient is reduced in the same way.
///
/// Integers that the type holds exactly (below 2^24 in f32, 2^53 in f64) stay exact, so sums and
/// products with this operation between them compute in the ring of integers modulo `modulus`.
///
/// # Errors
/// If `x` does not have four dimensions, or the modulus is even.
pub fn modulo(x: &Tensor, modulus: u32) -> Result<Tensor> {
    check_rank("modulo", x)?;
    if modulus.is_multiple_of(2) {
        let message = format!("the modulus must be odd, got {modulus}");
        return Err(Error::Config { op: "modulo", message });
    }
    let op = Modulo { modulus };
    if has_kernel(x) {
        return apply1(x, op, Output::ChannelsLast);
    }
    let multiple = ((x.detach() / modulus as f64)?.round()? * -(modulus as f64))?;
    add(&x.contiguous()?.apply_op1(op)?, &multiple)
}

/// The reduction as a custom op. On devices and types without our kernels its forward is the identity, and it
/// is only there to reduce the gradient: candle's own `round` has no gradient.
struct Modulo {
    modulus: u32,
}

impl CustomOp1 for Modulo {
    fn name(&self) -> &'static str {
        "modulo"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            storage: &CpuStorage,
            layout: &Layout,
            modulus: u32,
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            let (n, c, h, w) = layout.shape().dims4()?;
            let modulus = modulus as f64;
            let modulo = |&x: &T| {
                let x = x.as_f64();
                T::of_f64(x - modulus * (x / modulus).round())
            };
            let y = channels_last::<T>(storage, layout)?.iter().map(modulo).collect();
            Ok((T::to_cpu_storage_owned(y), (n, h, w, c).into()))
        }
        match storage {
            CpuStorage::F32(_) | CpuStorage::F64(_) | CpuStorage::BF16(_) => {
                with_upcast!([storage], inner(storage, layout, self.modulus))
            }
            other => Ok((other.try_clone(layout)?, layout.shape().clone())),
        }
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        #[cfg(feature = "cuda")]
        if matches!(storage.dtype(), DType::F32 | DType::BF16 | DType::F16) {
            let (n, c, h, w) = layout.shape().dims4()?;
            let y = pointwise::modulo((storage, &layout.permute(&[0, 2, 3, 1])?), self.modulus)?;
            return Ok((y, (n, h, w, c).into()));
        }
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal_fwd(
        &self,
        storage: &MetalStorage,
        layout: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // The tape passes gradients as (N, H, W, C), candle in any order; both have four dimensions.
        if has_kernel(grad) {
            let grad = from_nhwc(&grad.contiguous()?)?;
            return Ok(Some(from_nhwc(&grad.apply_op1_no_bwd(&Modulo { modulus: self.modulus })?)?));
        }
        let modulus = self.modulus as f64;
        Ok(Some((grad - ((grad / modulus)?.round()? * modulus)?)?))
    }
}
