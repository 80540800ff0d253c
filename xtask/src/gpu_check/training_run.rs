//! A short training run on the device, in f32 and in bf16 mixed precision, beside the CPU's in f32.

use super::check::Check;
use super::sizes::{SEED, Sizes};
use crate::loaders::Loaders;
use anyhow::{Result, bail};
use candle_core::{DType, Device};
use resnext_data::synthetic;
use resnext_model::Config;
use resnext_train::{Amp, BatchReport, Checkpoint, EpochReport, Observer, Outcome, TrainConfig, Trainer};
use serde::Serialize;

/// The largest relative difference that a step's loss may have from the CPU's. Rounding grows from step to
/// step.
const F32_BOUND: f64 = 1e-3;
const BF16_BOUND: f64 = 0.05;

/// The loss of each step.
#[derive(Serialize, Default)]
pub struct Losses {
    pub cpu: Vec<f64>,
    pub device: Vec<f64>,
    pub device_bf16: Vec<f64>,
}

/// Records the loss of each step.
struct Recorder(Vec<f64>);

impl Observer for Recorder {
    fn on_batch(&mut self, report: &BatchReport) {
        self.0.push(report.loss);
    }
    fn on_epoch(&mut self, _: &EpochReport) -> resnext_train::Result<()> {
        Ok(())
    }
    fn save(&mut self, _: &Checkpoint, _: bool) -> resnext_train::Result<()> {
        Ok(())
    }
    fn should_stop(&self) -> bool {
        false
    }
}

/// Compares the losses on the device with the CPU's, step by step.
pub fn checks(sizes: &Sizes, device: &Device) -> Result<(Vec<Check>, Losses)> {
    let losses = Losses {
        cpu: train(sizes, Amp::Off, &Device::Cpu)?,
        device: train(sizes, Amp::Off, device)?,
        device_bf16: train(sizes, Amp::Bf16, device)?,
    };
    let difference =
        |own: &[f64]| own.iter().zip(&losses.cpu).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max);
    let what = format!("{} steps of resnext11_8x4d, losses beside the CPU's in f32", losses.cpu.len());
    let check = |dtype, own: &[f64], bound| Check::at_most("training", &what, dtype, difference(own), bound);
    let checks = vec![
        check(DType::F32, &losses.device, F32_BOUND),
        check(DType::BF16, &losses.device_bf16, BF16_BOUND),
    ];
    Ok((checks, losses))
}

/// Trains, and returns the loss of each step.
fn train(sizes: &Sizes, amp: Amp, device: &Device) -> Result<Vec<f64>> {
    let (batch, batches) = sizes.trained;
    let config =
        TrainConfig { epochs: 1, lr: 0.02, label_smoothing: 0.1, seed: SEED, amp, ..Default::default() };
    let splits = synthetic::splits(SEED, batch * batches, batch);
    let loaders = Loaders::new(splits, batch, true, SEED, device)?;
    let mut recorder = Recorder(Vec::new());
    let model = Config { classes: 10, ..Config::by_name("resnext11_8x4d")? };
    match Trainer::new(&model, config, serde_json::Value::Null, device)?.run(&loaders, &mut recorder)? {
        Outcome::Finished => Ok(recorder.0),
        Outcome::Stopped | Outcome::EarlyStopped => bail!("the run stopped before its end"),
    }
}
