//! Times on the device: grouped 3×3 convolutions and training steps.

use super::gpu::{self, Launches};
use super::{SEED, Sizes};
use crate::bench::{Engine, quantile};
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use resnext_model::{Config, ResNext, Variables};
use resnext_ops::{
    Conv2dConfig, conv2d, conv2d_gradients, cross_entropy, to_channels_last, value_and_gradients,
};
use resnext_train::{Sgd, SgdConfig};
use serde::Serialize;
use serde_json::json;
use std::time::Instant;

const GROUPS: usize = 32;

/// A grouped convolution by one engine.
#[derive(Serialize)]
pub struct Grouped {
    pub channels: usize,
    pub side: usize,
    pub batch: usize,
    pub dtype: String,
    pub engine: String,
    pub forward_ms: f64,
    /// Of input and weight together.
    pub gradients_ms: f64,
    /// Of the memory's bandwidth, if every activation is moved once.
    pub forward_share: f64,
    pub gradients_share: f64,
}

/// Training steps by one engine.
#[derive(Serialize)]
pub struct Steps {
    pub network: String,
    pub batch: usize,
    pub side: usize,
    pub engine: String,
    /// `f32` or `bf16 AMP`.
    pub precision: String,
    pub step_ms: f64,
    pub images_per_s: f64,
}

/// Milliseconds of one run of `f`: the median of several measurements of several runs.
fn time<R>(device: &Device, (runs, rounds): (usize, usize), mut f: impl FnMut() -> Result<R>) -> Result<f64> {
    f()?;
    device.synchronize()?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..runs {
            f()?;
        }
        device.synchronize()?;
        times.push(start.elapsed().as_secs_f64() * 1e3 / runs as f64);
    }
    Ok(quantile(&times, 0.5))
}

/// Normal numbers, the same every time.
fn random(dims: &[usize], scale: f64, dtype: DType, device: &Device) -> Result<Tensor> {
    let value = |i: u64| ((i.wrapping_mul(2654435761) ^ i >> 7) as u32 as f64 / 2147483648.0 - 1.0) * scale;
    let values: Vec<f32> = (0..dims.iter().product::<usize>() as u64).map(|i| value(i) as f32).collect();
    Ok(Tensor::from_vec(values, dims, device)?.to_dtype(dtype)?)
}

/// What was measured, shares being of `bandwidth`, and what could not be, and why.
pub fn grouped(
    sizes: &Sizes,
    bandwidth: f64,
    device: &Device,
    mut peer: Option<&mut Engine>,
) -> Result<(Vec<Grouped>, Vec<String>)> {
    let mut missing = Vec::new();
    let batch = sizes.grouped_batch;
    let mut all = Vec::new();
    for &(channels, side) in sizes.grouped {
        for dtype in [DType::BF16, DType::F32] {
            let dims = [batch, channels, side, side];
            let map = dims.iter().product::<usize>() * dtype.size_in_bytes();
            let weight_bytes = channels * channels / GROUPS * 9 * dtype.size_in_bytes();
            let entry = |engine: &str, forward_ms: f64, gradients_ms: f64| {
                // Forward reads x and writes y; the gradients read x and y's, and write x's.
                let share =
                    |maps: usize, ms: f64| (maps * map + weight_bytes) as f64 / (ms / 1e3) / bandwidth;
                Grouped {
                    channels,
                    side,
                    batch,
                    dtype: format!("{dtype:?}").to_lowercase(),
                    engine: engine.into(),
                    forward_ms,
                    gradients_ms,
                    forward_share: share(2, forward_ms),
                    gradients_share: share(3, gradients_ms),
                }
            };
            let x = random(&dims, 1.0, dtype, device)?;
            let weight = random(&[channels, channels / GROUPS, 3, 3], 0.1, dtype, device)?;
            let config = Conv2dConfig { padding: 1, groups: GROUPS, ..Default::default() };
            let ours = to_channels_last(&x)?;
            for route in gpu::routes(device, dtype) {
                let timed = gpu::by_route(route, || -> Result<_> {
                    let forward = time(device, sizes.runs, || Ok(conv2d(&ours, &weight, &config)?))?;
                    let gradients =
                        time(device, sizes.runs, || Ok(conv2d_gradients(&ours, &weight, &ours, &config)?))?;
                    Ok((forward, gradients))
                })?;
                all.push(entry(route, timed.0, timed.1));
            }
            // candle doesn't compute every type on every device.
            match candles(sizes, device, &x, &weight) {
                Ok((forward, gradients)) => all.push(entry("candle", forward, gradients)),
                Err(error) => {
                    let text = error.to_string();
                    let line = text.lines().next().unwrap_or_default();
                    missing.push(format!("candle's own of {channels}×{side}² in {dtype:?}: {line}"));
                }
            }
            if let Some(peer) = peer.as_deref_mut() {
                let answer = peer.ask(json!({"do": "grouped", "channels": channels, "side": side, "groups": GROUPS,
                    "batch": batch, "dtype": entry("", 1.0, 1.0).dtype, "runs": sizes.runs.0, "rounds": sizes.runs.1}))?;
                let ms = |key: &str| answer[key].as_f64().unwrap_or(f64::NAN);
                all.push(entry(&peer.name, ms("forward_ms"), ms("gradients_ms")));
            }
        }
    }
    Ok((all, missing))
}

/// candle's own grouped convolution: one launch a group. Its backward pass can only be timed with the forward in it, which
/// is taken off.
fn candles(sizes: &Sizes, device: &Device, x: &Tensor, weight: &Tensor) -> Result<(f64, f64)> {
    let runs = (1, sizes.runs.1);
    let conv = |x: &Tensor, weight: &Tensor| x.conv2d(weight, 1, 1, 1, GROUPS);
    let forward = time(device, runs, || Ok(conv(x, weight)?))?;
    let (x, weight) = (Var::from_tensor(x)?, Var::from_tensor(weight)?);
    let both = time(device, runs, || Ok(conv(&x, &weight)?.backward()?))?;
    Ok((forward, (both - forward).max(0.0)))
}

/// A network in training on one batch.
struct Run {
    network: ResNext,
    optimizer: Sgd,
    images: Tensor,
    labels: Tensor,
}

impl Run {
    fn new(sizes: &Sizes, half: Option<DType>, device: &Device) -> Result<Self> {
        let config = Config::by_name(sizes.network)?;
        let variables = Variables::new(SEED, DType::F32, device);
        let mut network = ResNext::new(&config, variables.builder())?;
        network.set_mixed_precision(half)?;
        let optimizer = Sgd::new(variables.trainable(), SgdConfig { nesterov: false, ..Default::default() })?;
        let (batch, side) = sizes.images;
        let images = to_channels_last(&random(&[batch, 3, side, side], 2.0, DType::F32, device)?)?;
        let labels: Vec<u32> = (0..batch).map(|i| (i % config.classes) as u32).collect();
        Ok(Run { network, optimizer, images, labels: Tensor::from_vec(labels, batch, device)? })
    }

    fn step(&mut self) -> Result<Tensor> {
        let network = &self.network;
        let (images, labels) = (&self.images, &self.labels);
        let (loss, gradients) = rayon::scope(|_| {
            value_and_gradients(|| -> resnext_model::Result<Tensor> {
                Ok(cross_entropy(&network.forward(images, true)?, labels, 0.0)?)
            })
        })?;
        self.optimizer.step(1e-4, |var| gradients.get(var))?;
        Ok(loss)
    }
}

pub fn steps(sizes: &Sizes, device: &Device, mut peer: Option<&mut Engine>) -> Result<Vec<Steps>> {
    let (batch, side) = sizes.images;
    let mut all = Vec::new();
    for (precision, half) in [("bf16 AMP", Some(DType::BF16)), ("f32", None)] {
        let entry = |engine: &str, step_ms: f64| Steps {
            network: sizes.network.into(),
            batch,
            side,
            engine: engine.into(),
            precision: precision.into(),
            step_ms,
            images_per_s: batch as f64 / step_ms * 1e3,
        };
        let mut run = Run::new(sizes, half, device)?;
        let mut last = None;
        let step_ms = time(device, (sizes.steps, 3), || {
            last = Some(run.step()?);
            Ok(())
        })?;
        let loss = last.map(|loss| loss.to_scalar::<f32>()).transpose()?.unwrap_or(f32::NAN);
        ensure!(loss.is_finite(), "{} in {precision}: the loss is {loss} after some steps", sizes.network);
        all.push(entry("ours", step_ms));
        drop(run);
        if let Some(peer) = peer.as_deref_mut() {
            let config = Config::by_name(sizes.network)?;
            let answer = peer.ask(json!({"do": "train", "depths": config.depths, "groups": config.cardinality,
                "width": config.base_width, "classes": config.classes, "batch": batch, "side": side, "amp": half.is_some(),
                "steps": sizes.steps, "rounds": 3}))?;
            all.push(entry(&peer.name, answer["step_ms"].as_f64().unwrap_or(f64::NAN)));
        }
    }
    Ok(all)
}

/// What one step launches, with bf16.
pub fn launches(sizes: &Sizes, device: &Device) -> Result<Option<Vec<Launches>>> {
    let mut run = Run::new(sizes, Some(DType::BF16), device)?;
    run.step()?;
    let (done, list) = gpu::launches(device, || run.step());
    done?;
    Ok(list)
}
