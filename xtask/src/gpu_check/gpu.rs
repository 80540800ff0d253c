//! What a device tells of itself, and of what it is asked to do.

use anyhow::Result;
use candle_core::Device;
use serde::Serialize;

/// A kernel, or a library's call, and how often a training step launches it.
#[derive(Serialize)]
pub struct Launches {
    pub name: String,
    pub count: usize,
}

/// The device's own name for itself.
pub fn name(_: &Device) -> Result<Option<String>> {
    Ok(None)
}

/// Ways a grouped convolution can be computed here, by name.
pub fn routes(_: &Device) -> &'static [&'static str] {
    &["ours"]
}

/// Runs `f` with convolutions computed by one of [`routes`].
pub fn by_route<T>(_: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    f()
}

/// Runs `f` and counts what it launches, the most frequent first; `None` where that can't be seen.
pub fn launches<T>(_: &Device, f: impl FnOnce() -> T) -> (T, Option<Vec<Launches>>) {
    (f(), None)
}
