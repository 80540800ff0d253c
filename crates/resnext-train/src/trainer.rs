//! The training loop, to be read from top to bottom: settings, the caller's side, [`Trainer`], [`evaluate`].

use crate::amp::Amp;
use crate::checkpoint::{Checkpoint, Progress, assign};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::schedule::Schedule;
use crate::sgd::{Sgd, SgdConfig};
use crate::step::{ForwardBackward, forward_backward};
use candle_core::{DType, Device, Tensor};
use resnext_model::{Config, ResNext, Variables};
use resnext_ops::{cross_entropy, loss_value};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

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

/// Images (N, 3, H, W), of type f32, and labels (N), of type u32.
pub type Batch = (Tensor, Tensor);

/// An iterator over batches.
pub type Batches<'a> = Box<dyn Iterator<Item = Result<Batch>> + 'a>;

/// The source of batches, implemented by the caller.
pub trait Data {
    /// Training batches per epoch.
    fn batches_per_epoch(&self) -> usize;
    /// The training batches of `epoch`, starting with number `first`, from 0. Every call must give the same
    /// batches, or a resumed run differs.
    fn train(&self, epoch: usize, first: usize) -> Batches<'_>;
    /// The batches of the test set.
    fn test(&self) -> Batches<'_>;
}

/// Receives a run's progress and decides whether it continues; implemented by the caller.
pub trait Observer {
    /// Called after each training batch.
    fn on_batch(&mut self, report: &BatchReport);
    /// Called after each evaluation batch with the number of examples seen so far.
    fn on_test_batch(&mut self, _examples: usize) {}
    /// Called after each epoch and its evaluation, before its checkpoint is saved.
    ///
    /// # Errors
    /// An error ends the run and is returned by [`Trainer::run`].
    fn on_epoch(&mut self, report: &EpochReport) -> Result<()>;
    /// Saves a checkpoint; `best` is true if this epoch has the best test top-1 accuracy so far.
    ///
    /// # Errors
    /// An error ends the run and is returned by [`Trainer::run`].
    fn save(&mut self, checkpoint: &Checkpoint, best: bool) -> Result<()>;
    /// Whether the run should save a checkpoint and stop; called after each optimizer step.
    fn should_stop(&self) -> bool;
}

/// Progress after one training batch.
#[derive(Debug, Clone)]
pub struct BatchReport {
    /// The current epoch, from 0.
    pub epoch: usize,
    /// Completed batches of this epoch.
    pub batch: usize,
    /// Images in the batch.
    pub examples: usize,
    /// Mean loss of the batch.
    pub loss: f64,
    /// Learning rate of the batch's optimizer step.
    pub lr: f64,
}

/// Results of one epoch.
#[derive(Debug, Clone)]
pub struct EpochReport {
    /// The epoch, from 0.
    pub epoch: usize,
    /// Metrics over the training batches, each computed before its optimizer step.
    pub train: Metrics,
    /// Metrics over the test set after the epoch.
    pub test: Metrics,
    /// Learning rate of the epoch's last step.
    pub lr: f64,
}

/// How [`Trainer::run`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are complete.
    Finished,
    /// The observer asked to stop; a checkpoint was saved.
    Stopped,
}

/// A network in training: its weights, its optimizer and the position of the run.
#[derive(Debug)]
pub struct Trainer {
    config: TrainConfig,
    model: Config,
    network: ResNext,
    variables: Variables,
    optimizer: Sgd,
    progress: Progress,
    recipe: serde_json::Value,
}

impl Trainer {
    /// Creates a network with random weights on `device`, before its first epoch. `recipe` is stored in
    /// checkpoints unchanged.
    ///
    /// # Errors
    /// If a setting is out of range, or `device` does not support it.
    pub fn new(
        model: &Config,
        config: TrainConfig,
        recipe: serde_json::Value,
        device: &Device,
    ) -> Result<Self> {
        let positive = |name: &str, ok: bool| match ok {
            true => Ok(()),
            false => Err(Error::Config(format!("{name} must be at least 1, got 0"))),
        };
        positive("epochs", config.epochs > 0)?;
        positive("accumulate", config.accumulate > 0)?;
        if !(config.lr > 0.0 && config.lr.is_finite()) {
            return Err(Error::Config(format!("the learning rate must be above 0, got {}", config.lr)));
        }
        if !(0.0..=1.0).contains(&config.label_smoothing) {
            return Err(Error::Config(format!(
                "label smoothing must be from 0 to 1, got {}",
                config.label_smoothing
            )));
        }
        config.schedule.validate()?;
        if config.grad_checkpoint && !device.is_cpu() {
            let message = "gradient checkpointing is supported on the CPU only; turn it off on other devices";
            return Err(Error::Config(message.into()));
        }
        config.amp.check(device)?;
        let variables = Variables::new(config.seed, DType::F32, device);
        let mut network = ResNext::new(model, variables.builder())?;
        network.set_recompute(config.grad_checkpoint);
        network.set_mixed_precision(config.amp.dtype())?;
        let mut optimizer = Sgd::new(variables.trainable(), config.sgd)?;
        if config.ema != 0.0 {
            let trained = variables.trainable();
            let is_trained = |name: &str| trained.iter().any(|(own, _)| own == name);
            let others = variables.all().into_iter().filter(|(name, _)| !is_trained(name)).collect();
            optimizer = optimizer.with_average(config.ema, others)?;
        }
        let progress = Progress::default();
        Ok(Trainer { config, model: model.clone(), network, variables, optimizer, progress, recipe })
    }

    /// Continues the run that wrote `checkpoint`, which was read from `source`. Losses are the same, bit for
    /// bit, as those of an uninterrupted run.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the checkpoint belongs to another network.
    pub fn restore(&mut self, checkpoint: &Checkpoint, source: &Path) -> Result<()> {
        if checkpoint.model != self.model {
            let problem = format!("expected the network {:?}, got {:?}", self.model, checkpoint.model);
            return Err(Error::Mismatch { path: source.to_path_buf(), problem });
        }
        assign(&self.variables.all(), &checkpoint.tensors, source)?;
        assign(&self.optimizer.buffers(), &checkpoint.momentum, source)?;
        // If the saved run kept no average, one starts from its current weights.
        let averages = if checkpoint.average.is_empty() { &checkpoint.tensors } else { &checkpoint.average };
        let own = self.optimizer.averages();
        if !own.is_empty() {
            assign(&own, averages, source)?;
        }
        self.progress = checkpoint.progress.clone();
        self.optimizer.set_steps(self.progress.step);
        Ok(())
    }

    /// The current state of the run.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            tensors: detached(self.variables.all()),
            momentum: self.optimizer.state(),
            average: detached(self.optimizer.averages()),
            progress: self.progress.clone(),
            model: self.model.clone(),
            recipe: self.recipe.clone(),
        }
    }

    /// The current position of the run.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Trains from the current position to the last epoch, and evaluates after each epoch.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss becomes infinite or NaN; any error of the data, the network or the
    /// observer.
    pub fn run(&mut self, data: &impl Data, observer: &mut impl Observer) -> Result<Outcome> {
        while self.progress.epoch < self.config.epochs {
            let epoch = self.progress.epoch;
            if !self.config.amp.during(|| self.train_epoch(data, observer))? {
                observer.save(&self.checkpoint(), false)?;
                return Ok(Outcome::Stopped);
            }
            let mut watch = |examples: usize, _: &Tensor, _: &Tensor| {
                observer.on_test_batch(examples);
                Ok(())
            };
            let averaged = self.averaged()?;
            let network = averaged.as_ref().unwrap_or(&self.network);
            // The inference path is three times as fast.
            let fused = self.variables.device().is_cpu().then(|| network.fuse()).transpose()?;
            let forward = |images: &Tensor| match &fused {
                Some(fused) => fused.forward(images),
                None => network.forward(images, false),
            };
            let test = evaluate(forward, data.test(), &mut watch)?;
            let train = std::mem::take(&mut self.progress.partial);
            let best = test.top1() > self.progress.best_top1 || epoch == 0;
            self.progress.best_top1 = test.top1().max(self.progress.best_top1);
            self.progress.epoch += 1;
            self.progress.batch = 0;
            let lr = self.learning_rate(data, self.progress.step.saturating_sub(1));
            observer.on_epoch(&EpochReport { epoch, train, test, lr })?;
            observer.save(&self.checkpoint(), best)?;
        }
        Ok(Outcome::Finished)
    }

    /// A network with the averaged weights, if averages are kept.
    fn averaged(&self) -> Result<Option<ResNext>> {
        let averages = detached(self.optimizer.averages());
        if averages.is_empty() {
            return Ok(None);
        }
        let variables = Variables::new(self.config.seed, DType::F32, self.variables.device());
        let network = ResNext::new(&self.model, variables.builder())?;
        for (name, var) in variables.all() {
            var.set(&averages[&name])?;
        }
        Ok(Some(network))
    }

    /// Trains to the end of the epoch and returns true, or to where the observer stops it and returns false.
    fn train_epoch(&mut self, data: &impl Data, observer: &mut impl Observer) -> Result<bool> {
        let epoch = self.progress.epoch;
        let mut batches = data.train(epoch, self.progress.batch);
        let mut left = data.batches_per_epoch() - self.progress.batch;
        while left > 0 {
            let group = left.min(self.config.accumulate);
            left -= group;
            let lr = self.learning_rate(data, self.progress.step);
            let mut sums: HashMap<candle_core::TensorId, Tensor> = HashMap::new();
            for _ in 0..group {
                let (images, labels) =
                    batches.next().ok_or_else(|| Error::Data("the epoch ended early".into()))??;
                let ForwardBackward { loss, logits, gradients, .. } =
                    forward_backward(&self.network, &images, &labels, self.config.label_smoothing)?;
                let loss = loss_value(&loss, &labels, self.model.classes)?;
                if !loss.is_finite() {
                    return Err(Error::Diverged { step: self.progress.step, loss });
                }
                for (_, var) in self.variables.trainable() {
                    let Some(gradient) = gradients.get(&var) else { continue };
                    let gradient = if group == 1 { gradient.clone() } else { (gradient / group as f64)? };
                    let sum = match sums.remove(&var.id()) {
                        None => gradient,
                        Some(sum) => (sum + gradient)?,
                    };
                    sums.insert(var.id(), sum);
                }
                self.progress.partial.add(&logits, &labels, loss)?;
                self.progress.batch += 1;
                let examples = labels.elem_count();
                observer.on_batch(&BatchReport { epoch, batch: self.progress.batch, examples, loss, lr });
            }
            self.optimizer.step(lr, |var| sums.get(&var.id()))?;
            self.progress.step += 1;
            if observer.should_stop() && left > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The learning rate of optimizer step `step`, from 0.
    fn learning_rate(&self, data: &impl Data, step: usize) -> f64 {
        let steps_per_epoch = data.batches_per_epoch().div_ceil(self.config.accumulate);
        self.config.schedule.learning_rate(self.config.lr, step, self.config.epochs * steps_per_epoch)
    }
}

/// The variables' values, outside of any gradient computation.
fn detached(variables: Vec<(String, candle_core::Var)>) -> BTreeMap<String, Tensor> {
    variables.into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect()
}

/// Evaluates `network`, a function from images (N, 3, H, W) to logits (N, classes), over `batches`. After
/// each batch, `observe` is called with the number of examples so far, the batch's logits (N, classes) and
/// its labels (N).
///
/// # Errors
/// Any error of the data, the network or `observe`.
pub fn evaluate(
    network: impl Fn(&Tensor) -> resnext_model::Result<Tensor>,
    batches: Batches,
    mut observe: impl FnMut(usize, &Tensor, &Tensor) -> Result<()>,
) -> Result<Metrics> {
    let mut metrics = Metrics::default();
    for batch in batches {
        let (images, labels) = batch?;
        let logits = network(&images)?.detach();
        let loss = loss_value(&cross_entropy(&logits, &labels, 0.0)?, &labels, logits.dim(1)?)?;
        metrics.add(&logits, &labels, loss)?;
        observe(metrics.count, &logits, &labels)?;
    }
    Ok(metrics)
}
