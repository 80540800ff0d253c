//! Properties of a device that only some builds know: its name, its implementations of convolutions, its launches.

use candle_core::{DType, Device};
use serde::Serialize;

/// A kernel or library call, and how often a training step launches it.
#[derive(Serialize)]
pub struct Launches {
    pub name: String,
    pub count: usize,
}

/// The route that rounds the inputs of an f32 convolution to TF32.
pub const TF32: &str = "ours, TF32";

/// The names of the ways in which this build and device can compute a grouped convolution.
pub fn routes(device: &Device, dtype: DType) -> Vec<&'static str> {
    let cuda = device.is_cuda();
    let all =
        [("ours", true), (TF32, cuda && dtype == DType::F32), ("cuDNN", cuda && cfg!(feature = "cudnn"))];
    all.into_iter().filter_map(|(name, here)| here.then_some(name)).collect()
}

#[cfg(feature = "cuda")]
pub use with_cuda::{by_route, launches, name};

#[cfg(feature = "cuda")]
mod with_cuda {
    use super::{Launches, TF32};
    use anyhow::Result;
    use candle_core::Device;
    use resnext_ops::cuda::{
        Convolutions, convolutions, describe, launches as launches_of, set_convolutions, with_tf32,
    };
    use std::cmp::Reverse;
    use std::collections::BTreeMap;

    /// The device's name and compute capability.
    pub fn name(device: &Device) -> Result<Option<String>> {
        if !device.is_cuda() {
            return Ok(None);
        }
        let described = describe(device)?;
        let (major, minor) = described.capability;
        Ok(Some(format!("{}, compute capability {major}.{minor}", described.name)))
    }

    /// Runs `f` with convolutions computed by the given one of [`routes`](super::routes).
    pub fn by_route<T>(route: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = convolutions();
        set_convolutions(if route == "cuDNN" { Convolutions::Cudnn } else { Convolutions::Ours })?;
        let result = with_tf32(route == TF32, f);
        set_convolutions(before)?;
        result
    }

    /// Runs `f` and counts what it launches, the most frequent first; `None` for other devices than CUDA's.
    pub fn launches<T>(device: &Device, f: impl FnOnce() -> T) -> (T, Option<Vec<Launches>>) {
        if !device.is_cuda() {
            return (f(), None);
        }
        let (result, launched) = launches_of(f);
        let mut counts = BTreeMap::<String, usize>::new();
        launched.into_iter().for_each(|launch| *counts.entry(launch.name).or_default() += 1);
        let mut list: Vec<Launches> =
            counts.into_iter().map(|(name, count)| Launches { name, count }).collect();
        list.sort_by_key(|launch| Reverse(launch.count));
        (result, Some(list))
    }
}

#[cfg(not(feature = "cuda"))]
pub use without_cuda::{by_route, launches, name};

#[cfg(not(feature = "cuda"))]
mod without_cuda {
    use super::Launches;
    use anyhow::Result;
    use candle_core::Device;

    /// Always `None`: only CUDA devices have a name here.
    pub fn name(_: &Device) -> Result<Option<String>> {
        Ok(None)
    }

    /// Runs `f`: there is only one route.
    pub fn by_route<T>(_: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
        f()
    }

    /// Runs `f`, whose launches are not counted.
    pub fn launches<T>(_: &Device, f: impl FnOnce() -> T) -> (T, Option<Vec<Launches>>) {
        (f(), None)
    }
}
