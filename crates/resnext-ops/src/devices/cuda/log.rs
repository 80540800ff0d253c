//! The list of what is put on devices' streams.

use candle_core::{DType, Layout};
use std::sync::{Mutex, PoisonError};

/// What is put on a device's stream: one launch of a kernel of ours or of candle's, a copy, a fill, or one call of cuBLAS's
/// or cuDNN's, which may launch several kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// The kernel's name and its constants; for what is not ours whose it is, and what.
    pub name: String,
    /// Blocks; 0 for what is not a kernel of ours.
    pub grid: [u32; 3],
    /// Threads a block; 0 for what is not a kernel of ours.
    pub block: [u32; 3],
    /// Bytes of shared memory a block.
    pub shared: u32,
}

static LOG: Mutex<Option<Vec<Launched>>> = Mutex::new(None);

/// Runs `f` and lists what this crate puts on streams meanwhile, in this process, in order: its own launches and those it
/// has candle do. What `f` itself asks of candle is not on the list.
pub fn launches<T>(f: impl FnOnce() -> T) -> (T, Vec<Launched>) {
    let outer = LOG.lock().unwrap_or_else(PoisonError::into_inner).replace(Vec::new());
    let result = f();
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let list = std::mem::replace(&mut *log, outer).unwrap_or_default();
    if let Some(outer) = &mut *log {
        outer.extend(list.iter().cloned());
    }
    (result, list)
}

pub(super) fn log(launched: impl FnOnce() -> Launched) {
    if let Some(list) = &mut *LOG.lock().unwrap_or_else(PoisonError::into_inner) {
        list.push(launched());
    }
}

/// Puts something that is not a kernel of ours on the list.
pub(super) fn log_call(name: &str) {
    log(|| Launched { name: name.to_string(), grid: [0; 3], block: [0; 3], shared: 0 });
}

/// Puts on the list what candle does to write a layout's elements in order by its kernel `name`, in the type `to`.
pub(crate) fn log_candle(name: &str, layout: &Layout, to: DType) {
    if !layout.is_contiguous() {
        log_call(COPY_TO_DEVICE); // of sizes and strides
    }
    log_call(&format!("candle: {name}_{}", to.as_str()));
}

/// On the list: a copy from the host's memory.
pub(super) const COPY_TO_DEVICE: &str = "copy to the device";
