//! The elements of tensors on the CPU.

use crate::element::{Element, Stored};
use crate::error::Result;
use crate::layout::{channels_last, row_major};
use candle_core::{Storage, Tensor};

/// A tensor's elements in row-major order.
pub(crate) fn elements<T: Element>(t: &Tensor) -> Result<Vec<T>> {
    let (storage, layout) = t.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(row_major::<T>(storage, layout)?.into_owned()),
        _ => unreachable!("has_cpu_kernel"),
    }
}

/// Calls `f` with the elements of a tensor (N, C, H, W) in channels-last order.
pub(crate) fn with_elements<D: Stored, R>(x: &Tensor, f: impl FnOnce(&[D]) -> Result<R>) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(&channels_last::<D>(storage, layout)?),
        _ => unreachable!("has_cpu_kernel"),
    }
}
