//! The speed of training steps on the device, ours beside PyTorch's, and the kernels that one step launches.

use super::gpu::{self, Launches};
use super::sizes::{SEED, Sizes};
use super::timing::median_ms;
use crate::bench::engine::Engine;
use crate::inputs::noise;
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use resnext_model::{Config, ResNext, Variables};
use resnext_ops::to_channels_last;
use resnext_train::{Sgd, SgdConfig, forward_backward};
use serde::Serialize;
use serde_json::json;

/// The training steps of one engine.
#[derive(Serialize)]
pub struct StepSpeed {
    pub network: String,
    pub batch: usize,
    pub side: usize,
    pub engine: String,
    /// `f32` or `bf16 AMP`.
    pub precision: String,
    pub step_ms: f64,
    pub images_per_s: f64,
}

/// A network in training, on the same batch in each step.
struct Training {
    network: ResNext,
    optimizer: Sgd,
    images: Tensor,
    labels: Tensor,
}

impl Training {
    /// `half`: the 16-bit type of mixed precision; f32 without it.
    fn new(sizes: &Sizes, half: Option<DType>, device: &Device) -> Result<Self> {
        let config = Config::by_name(sizes.network)?;
        let variables = Variables::new(SEED, DType::F32, device);
        let mut network = ResNext::new(&config, variables.builder())?;
        network.set_mixed_precision(half)?;
        let optimizer = Sgd::new(variables.trainable(), SgdConfig { nesterov: false, ..Default::default() })?;
        let (batch, side) = sizes.images;
        let images = to_channels_last(&noise(&[batch, 3, side, side])?.to_device(device)?)?;
        let labels: Vec<u32> = (0..batch).map(|i| (i % config.classes) as u32).collect();
        Ok(Training { network, optimizer, images, labels: Tensor::from_vec(labels, batch, device)? })
    }

    /// Trains one step and returns its loss, which the device may still be computing.
    fn step(&mut self) -> Result<Tensor> {
        let step = forward_backward(&self.network, &self.images, &self.labels, 0.0)?;
        self.optimizer.step(1e-4, |var| step.gradients.get(var))?;
        Ok(step.loss)
    }
}

/// Measures steps in bf16 mixed precision and in f32.
pub fn measure(sizes: &Sizes, device: &Device, mut peer: Option<&mut Engine>) -> Result<Vec<StepSpeed>> {
    let (batch, side) = sizes.images;
    let mut all = Vec::new();
    for (precision, half) in [("bf16 AMP", Some(DType::BF16)), ("f32", None)] {
        let result = |engine: &str, step_ms: f64| StepSpeed {
            network: sizes.network.into(),
            batch,
            side,
            engine: engine.into(),
            precision: precision.into(),
            step_ms,
            images_per_s: batch as f64 / step_ms * 1e3,
        };
        let mut training = Training::new(sizes, half, device)?;
        let mut last = None;
        let step_ms = median_ms(device, (sizes.steps, 3), || {
            last = Some(training.step()?);
            Ok(())
        })?;
        let loss = last.map(|loss| loss.to_scalar::<f32>()).transpose()?.unwrap_or(f32::NAN);
        ensure!(loss.is_finite(), "{} in {precision}: the loss is {loss} after some steps", sizes.network);
        all.push(result("ours", step_ms));
        // Frees the device's memory for the peer.
        drop(training);
        if let Some(peer) = peer.as_deref_mut() {
            let config = Config::by_name(sizes.network)?;
            let answer =
                peer.ask(json!({"do": "train", "depths": config.depths, "groups": config.cardinality,
                "width": config.base_width, "classes": config.classes, "batch": batch, "side": side,
                "amp": half.is_some(), "steps": sizes.steps, "rounds": 3}))?;
            all.push(result(&peer.name, answer["step_ms"].as_f64().unwrap_or(f64::NAN)));
        }
    }
    Ok(all)
}

/// Counts what one step launches in bf16 mixed precision; `None` where the device cannot be observed.
pub fn launches(sizes: &Sizes, device: &Device) -> Result<Option<Vec<Launches>>> {
    let mut training = Training::new(sizes, Some(DType::BF16), device)?;
    training.step()?;
    let (done, list) = gpu::launches(device, || training.step());
    done?;
    Ok(list)
}
