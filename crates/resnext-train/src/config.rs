//! The settings of a training run.

use crate::amp::Amp;
use crate::error::{Error, Result};
use crate::schedule::Schedule;
use crate::sgd::SgdConfig;
use candle_core::Device;

/// The settings of a training run.
#[derive(Debug, Clone)]
pub struct TrainConfig {
    /// Passes over the training set.
    pub epochs: usize,
    /// Peak learning rate, above 0.
    pub lr: f64,
    /// How the learning rate changes over the run.
    pub schedule: Schedule,
    /// The optimizer's settings.
    pub sgd: SgdConfig,
    /// Label smoothing of the cross-entropy loss, from 0 to 1.
    pub label_smoothing: f64,
    /// Batches per optimizer step, at least 1; their gradients are averaged.
    pub accumulate: usize,
    /// Seeds the initial weights.
    pub seed: u64,
    /// Decay of the exponential moving average of the weights that is evaluated, from 0 to below 1; 0
    /// evaluates the weights themselves.
    pub ema: f64,
    /// Gradient checkpointing: the backward pass recomputes convolution results instead of keeping them in
    /// memory. CPU only.
    pub grad_checkpoint: bool,
    /// Precision of feature maps and convolutions during training.
    pub amp: Amp,
}

impl TrainConfig {
    /// Checks that every setting is in range and supported on `device`.
    ///
    /// # Errors
    /// [`Error::Config`], which names the setting.
    pub(crate) fn validate(&self, device: &Device) -> Result<()> {
        let positive = |name: &str, ok: bool| match ok {
            true => Ok(()),
            false => Err(Error::Config(format!("{name} must be at least 1, got 0"))),
        };
        positive("epochs", self.epochs > 0)?;
        positive("accumulate", self.accumulate > 0)?;
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(Error::Config(format!("the learning rate must be above 0, got {}", self.lr)));
        }
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            return Err(Error::Config(format!(
                "label smoothing must be from 0 to 1, got {}",
                self.label_smoothing
            )));
        }
        self.schedule.validate()?;
        if self.grad_checkpoint && !device.is_cpu() {
            let message = "gradient checkpointing is supported on the CPU only; turn it off on other devices";
            return Err(Error::Config(message.into()));
        }
        self.amp.check(device)
    }
}
