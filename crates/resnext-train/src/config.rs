//! The settings of a training run.

use crate::amp::Amp;
use crate::clip::Clip;
use crate::error::{Error, Result};
use crate::freeze::Freeze;
use crate::loss::Loss;
use crate::optimizer::OptimizerConfig;
use crate::parameter_group::DecayOf;
use crate::schedule::Schedule;
use candle_core::Device;
use resnext_model::Architecture;

/// The settings of a training run.
#[derive(Debug, Clone)]
pub struct TrainConfig {
    /// Passes over the training set.
    pub epochs: usize,
    /// Peak learning rate, above 0.
    pub lr: f64,
    /// How the learning rate changes over the run.
    pub schedule: Schedule,
    /// The optimizer and its settings.
    pub optimizer: OptimizerConfig,
    /// The parameters that weight decay applies to.
    pub decay_of: DecayOf,
    /// The factor of the learning rate from each stage to the one before it, above 0 and at most 1: the last
    /// layer has the whole rate.
    pub layer_decay: f64,
    /// The parts of the network that are not trained.
    pub freeze: Freeze,
    /// Whether batch norms keep their parameters and running statistics, and normalise by the latter in
    /// training too.
    pub freeze_norms: bool,
    /// Stochastic depth (arXiv 1603.09382): the probability that the last block's branch is dropped for an
    /// image, from 0 to below 1. It rises linearly from 0 at the first block.
    pub drop_path: f64,
    /// The loss that training minimises.
    pub loss: Loss,
    /// Label smoothing, from 0 to 1.
    pub label_smoothing: f64,
    /// The weight of each class in the loss, indexed by label ([`Loss::weighted`]); empty for the same weight of
    /// all.
    pub class_weights: Vec<f32>,
    /// A limit on the gradients of a step.
    pub clip: Option<Clip>,
    /// Batches per optimizer step, at least 1; their gradients are averaged.
    pub accumulate: usize,
    /// Epochs without a better test top-1 after which the run ends early; 0 for none.
    pub early_stopping: usize,
    /// Seeds the initial weights and stochastic depth.
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

/// Ten epochs of SGD with the default schedule at a peak rate of 0.1, in f32, with nothing else switched on.
impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            epochs: 10,
            lr: 0.1,
            schedule: Schedule::default(),
            optimizer: OptimizerConfig::default(),
            decay_of: DecayOf::default(),
            layer_decay: 1.0,
            freeze: Freeze::default(),
            freeze_norms: false,
            drop_path: 0.0,
            loss: Loss::default(),
            label_smoothing: 0.0,
            class_weights: Vec::new(),
            clip: None,
            accumulate: 1,
            early_stopping: 0,
            seed: 0,
            ema: 0.0,
            grad_checkpoint: false,
            amp: Amp::Off,
        }
    }
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
        if !(self.layer_decay > 0.0 && self.layer_decay <= 1.0) {
            let got = self.layer_decay;
            return Err(Error::Config(format!("layer decay must be above 0 and at most 1, got {got}")));
        }
        if !(0.0..1.0).contains(&self.drop_path) {
            return Err(Error::Config(format!(
                "drop path must be from 0 to below 1, got {}",
                self.drop_path
            )));
        }
        self.schedule.validate()?;
        self.loss.validate()?;
        self.loss.check_weights(&self.class_weights)?;
        self.clip.map_or(Ok(()), Clip::validate)?;
        if self.grad_checkpoint && !device.is_cpu() {
            let message = "gradient checkpointing is supported on the CPU only; turn it off on other devices";
            return Err(Error::Config(message.into()));
        }
        self.amp.check(device)
    }

    /// Checks that the network has the parts that the settings are about.
    ///
    /// # Errors
    /// [`Error::Config`], which names the setting.
    pub(crate) fn check_network(&self, network: &Architecture) -> Result<()> {
        let Architecture::Baseline { baseline, .. } = network else { return Ok(()) };
        let settings = [
            ("freezing parts", !self.freeze.is_empty()),
            ("frozen batch norms", self.freeze_norms),
            ("stochastic depth (drop path)", self.drop_path != 0.0),
            ("layer decay", self.layer_decay != 1.0),
            ("gradient checkpointing", self.grad_checkpoint),
        ];
        match settings.into_iter().find(|(_, is_set)| *is_set) {
            None => Ok(()),
            Some((setting, _)) => Err(Error::Config(format!(
                "{setting} is for ResNets and ResNeXts, which have stages of blocks: {} is trained without it",
                baseline.name()
            ))),
        }
    }
}
