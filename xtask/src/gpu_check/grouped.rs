//! The speed of grouped 3×3 convolutions on the device, ours beside candle's and PyTorch's.

use super::gpu;
use super::measured::Measured;
use super::peer::{PYTORCH, Peer};
use super::sizes::Sizes;
use super::timing::median_ms;
use crate::inputs::noise;
use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use resnext_ops::{Conv2dConfig, conv2d, conv2d_gradients, to_channels_last};
use serde::Serialize;
use serde_json::json;

const GROUPS: usize = 32;
const CONFIG: Conv2dConfig = Conv2dConfig { stride: 1, padding: 1, dilation: 1, groups: GROUPS };

/// One convolution, computed by one engine.
#[derive(Serialize)]
pub struct GroupedSpeed {
    pub channels: usize,
    pub side: usize,
    pub batch: usize,
    pub dtype: String,
    pub engine: String,
    pub forward_ms: f64,
    /// The gradients of input and weight together.
    pub gradients_ms: f64,
    /// The share of the memory's bandwidth that is used, if each activation is moved once.
    pub forward_share: f64,
    pub gradients_share: f64,
}

/// The times of a convolution, in milliseconds.
struct Times {
    forward: f64,
    gradients: f64,
}

/// One of the convolutions that are measured.
struct Case<'a> {
    sizes: &'a Sizes,
    channels: usize,
    side: usize,
    dtype: DType,
    /// The memory's bandwidth, in bytes per second.
    bandwidth: f64,
}

/// Measures all convolutions of `sizes`, and calls `found` with each result; shares are relative to `bandwidth`, in bytes
/// per second.
pub fn measure(
    sizes: &Sizes,
    bandwidth: f64,
    device: &Device,
    mut peer: Option<&mut Peer>,
    mut found: impl FnMut(Measured<GroupedSpeed>) -> Result<()>,
) -> Result<()> {
    for &(channels, side) in sizes.grouped {
        for dtype in [DType::BF16, DType::F32] {
            let case = Case { sizes, channels, side, dtype, bandwidth };
            let x = (noise(&[sizes.grouped_batch, channels, side, side])? * 0.5)?;
            let x = x.to_dtype(dtype)?.to_device(device)?;
            let weight = (noise(&[channels, channels / GROUPS, 3, 3])? * 0.05)?;
            let weight = weight.to_dtype(dtype)?.to_device(device)?;
            for route in gpu::routes(device, dtype) {
                let times = gpu::by_route(route, || case.ours(device, &x, &weight))?;
                found(Measured::Speed(case.result(route, times)))?;
            }
            // candle does not compute every type on every device.
            found(case.measured("candle", case.candle(device, &x, &weight)))?;
            if let Some(peer) = peer.as_deref_mut() {
                found(case.measured(PYTORCH, case.peer(peer)))?;
            }
        }
    }
    Ok(())
}

impl Case<'_> {
    fn ours(&self, device: &Device, x: &Tensor, weight: &Tensor) -> Result<Times> {
        let x = to_channels_last(x)?;
        let runs = self.sizes.runs;
        let forward = median_ms(device, runs, || Ok(conv2d(&x, weight, &CONFIG)?))?;
        let gradients = median_ms(device, runs, || Ok(conv2d_gradients(&x, weight, &x, &CONFIG)?))?;
        Ok(Times { forward, gradients })
    }

    /// candle launches one kernel per group. Its backward pass can only be timed together with the forward
    /// pass, whose time is subtracted.
    fn candle(&self, device: &Device, x: &Tensor, weight: &Tensor) -> Result<Times> {
        let runs = (1, self.sizes.runs.1);
        let conv = |x: &Tensor, weight: &Tensor| x.conv2d(weight, 1, 1, 1, GROUPS);
        let forward = median_ms(device, runs, || Ok(conv(x, weight)?))?;
        let (x, weight) = (Var::from_tensor(x)?, Var::from_tensor(weight)?);
        let both = median_ms(device, runs, || Ok(conv(&x, &weight)?.backward()?))?;
        Ok(Times { forward, gradients: (both - forward).max(0.0) })
    }

    fn peer(&self, peer: &mut Peer) -> Result<Times> {
        let (runs, rounds) = self.sizes.runs;
        let (forward, gradients) = peer.grouped(json!({"do": "grouped", "channels": self.channels,
            "side": self.side, "groups": GROUPS, "batch": self.sizes.grouped_batch,
            "dtype": self.dtype.as_str(), "runs": runs, "rounds": rounds}))?;
        Ok(Times { forward, gradients })
    }

    fn measured(&self, engine: &str, times: Result<Times>) -> Measured<GroupedSpeed> {
        let what = format!("{engine}, {}×{}×{1} in {}", self.channels, self.side, self.dtype.as_str());
        Measured::of(times, &what, |times| self.result(engine, times))
    }

    fn result(&self, engine: &str, times: Times) -> GroupedSpeed {
        let batch = self.sizes.grouped_batch;
        let bytes = self.dtype.size_in_bytes();
        let map_bytes = batch * self.channels * self.side * self.side * bytes;
        let weight_bytes = self.channels * self.channels / GROUPS * 9 * bytes;
        let share =
            |maps: usize, ms: f64| (maps * map_bytes + weight_bytes) as f64 / (ms / 1e3) / self.bandwidth;
        GroupedSpeed {
            channels: self.channels,
            side: self.side,
            batch,
            dtype: self.dtype.as_str().into(),
            engine: engine.into(),
            forward_ms: times.forward,
            gradients_ms: times.gradients,
            // The forward pass reads x and writes y; the gradients read x and dy and write dx.
            forward_share: share(2, times.forward),
            gradients_share: share(3, times.gradients),
        }
    }
}
