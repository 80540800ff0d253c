//! A list of the work that is put on devices' streams, for tests and reports.

use candle_core::{DType, Layout};
use std::sync::{Mutex, PoisonError};

/// An entry of a stream: the launch of one of our or candle's kernels, a copy, a fill, or a call of cuBLAS or
/// cuDNN, which may launch several kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// The kernel's name and its constants; for other entries, the library and the operation.
    pub name: String,
    /// The number of blocks in the grid (x, y, z); 0 for anything but our kernels.
    pub grid: [u32; 3],
    /// The number of threads per block (x, y, z); 0 for anything but our kernels.
    pub block: [u32; 3],
    /// The bytes of shared memory per block.
    pub shared: u32,
}

static LOG: Mutex<Option<Vec<Launched>>> = Mutex::new(None);

/// Runs `f` and lists what this crate puts on streams meanwhile, in the whole process, in order: its own
/// launches and the candle operations that it calls. Operations of candle that `f` calls itself are not on
/// the list.
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

/// Adds an entry if a list is being made.
pub(super) fn log(launched: impl FnOnce() -> Launched) {
    if let Some(list) = &mut *LOG.lock().unwrap_or_else(PoisonError::into_inner) {
        list.push(launched());
    }
}

/// Adds an entry that is not one of our kernels.
pub(super) fn log_call(name: &str) {
    log(|| Launched { name: name.to_string(), grid: [0; 3], block: [0; 3], shared: 0 });
}

/// Adds what candle does to write a layout's elements in row-major order with its kernel `name`, in the type
/// `to`.
pub(crate) fn log_candle(name: &str, layout: &Layout, to: DType) {
    if !layout.is_contiguous() {
        log_call(COPY_TO_DEVICE); // of sizes and strides
    }
    log_call(&format!("candle: {name}_{}", to.as_str()));
}

/// The name of a copy from host memory.
pub(super) const COPY_TO_DEVICE: &str = "copy to the device";
