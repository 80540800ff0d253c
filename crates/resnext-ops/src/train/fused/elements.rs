//! The elements of CPU tensors as slices, in the type they are stored as.

use crate::element::{Element, Stored};
use crate::error::Result;
use crate::layout::{channels_last, row_major};
use candle_core::{DType, Storage, Tensor};
use half::bf16;

/// An operation on feature maps that are stored as f32, f64 or bf16.
pub(crate) trait ForwardAs {
    /// The operation on maps stored as `D`, which is `x`'s type.
    fn forward_as<D: Stored>(&self, x: &Tensor) -> Result<Tensor>;

    /// The operation on maps stored in `x`'s type: f64, bf16 or else f32.
    fn forward_by_dtype(&self, x: &Tensor) -> Result<Tensor> {
        match x.dtype() {
            DType::F64 => self.forward_as::<f64>(x),
            DType::BF16 => self.forward_as::<bf16>(x),
            _ => self.forward_as::<f32>(x),
        }
    }
}

/// A CPU tensor's elements in row-major order.
pub(crate) fn elements<T: Element>(t: &Tensor) -> Result<Vec<T>> {
    let (storage, layout) = t.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(row_major::<T>(storage, layout)?.into_owned()),
        _ => unreachable!("fused operations take tensors on the CPU"),
    }
}

/// Calls `f` with the elements of a CPU tensor (N, C, H, W) in channels-last order.
pub(crate) fn with_elements<D: Stored, R>(x: &Tensor, f: impl FnOnce(&[D]) -> Result<R>) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(&channels_last::<D>(storage, layout)?),
        _ => unreachable!("fused operations take tensors on the CPU"),
    }
}
