//! The elements of variables and gradients as slices, for optimizers that update in place on the CPU.

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, Tensor, Var};
use std::cell::Cell;

/// A function that changes a variable's elements.
type Writer<'a> = Box<dyn FnOnce(&mut [f32]) -> candle_core::Result<()> + 'a>;

/// A candle in-place op that calls a closure with a variable's elements.
struct Borrow<'a>(Cell<Option<Writer<'a>>>);

/// Calls `write` with the elements of the f32 variable `of` on the CPU. In-place ops of candle give write
/// access to one tensor only, so calls for several are nested.
pub(crate) fn elements_mut(
    of: &Var,
    write: impl FnOnce(&mut [f32]) -> candle_core::Result<()>,
) -> candle_core::Result<()> {
    let write: Writer = Box::new(write);
    of.inplace_op1(&Borrow(Cell::new(Some(write))))
}

/// Calls `read` with the elements of a contiguous f32 tensor on the CPU.
pub(crate) fn elements<T>(
    of: &Tensor,
    read: impl FnOnce(&[f32]) -> candle_core::Result<T>,
) -> candle_core::Result<T> {
    let (storage, layout) = of.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("optimizer: expected a tensor on the CPU")
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => read(&storage.as_slice::<f32>()?[start..end]),
        None => {
            candle_core::bail!("optimizer: expected a contiguous tensor, got strides {:?}", layout.stride())
        }
    }
}

impl InplaceOp1 for Borrow<'_> {
    fn name(&self) -> &'static str {
        "optimizer"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let elements = match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(data), Some((start, end))) => &mut data[start..end],
            _ => candle_core::bail!("optimizer: expected a contiguous f32 tensor"),
        };
        match self.0.take() {
            Some(write) => write(elements),
            None => Ok(()),
        }
    }
}
