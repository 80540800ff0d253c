//! The training loop.

use crate::checkpoint::{Checkpoint, Progress, assign};
use crate::metrics::Metrics;
use crate::schedule::Schedule;
use crate::sgd::{Sgd, SgdConfig};
use crate::{Amp, Error, Result};
use candle_core::{DType, Device, Tensor};
use resnext_model::{Config, ResNext, Variables};
use resnext_ops::{cross_entropy, loss_value, value_and_gradients};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// How a network is trained.
#[derive(Debug, Clone)]
pub struct TrainConfig {
    /// Passes over the training set.
    pub epochs: usize,
    /// The peak learning rate.
    pub lr: f64,
    /// How it changes.
    pub schedule: Schedule,
    /// The optimizer.
    pub sgd: SgdConfig,
    /// Of the loss, from 0 to 1.
    pub label_smoothing: f64,
    /// Batches whose gradients are averaged for one optimizer step.
    pub accumulate: usize,
    /// Of the first weights.
    pub seed: u64,
    /// Evaluates an exponential moving average of the weights, of which a step keeps this much; 0 is none.
    pub ema: f64,
    /// Keeps less of the forward pass in memory, and computes it again in the backward one.
    pub grad_checkpoint: bool,
    /// Mixed precision.
    pub amp: Amp,
}

/// Images (N, 3, H, W) and labels (N, u32).
pub type Batch = (Tensor, Tensor);

/// A stream of batches.
pub type Batches<'a> = Box<dyn Iterator<Item = Result<Batch>> + 'a>;

/// Where batches come from.
pub trait Data {
    /// Training batches an epoch.
    fn batches_per_epoch(&self) -> usize;
    /// The training batches of `epoch`, from number `first` on; the same at every call.
    fn train(&self, epoch: usize, first: usize) -> Batches<'_>;
    /// The test set.
    fn test(&self) -> Batches<'_>;
}

/// Told how a run goes, and asked whether it should.
pub trait Observer {
    /// After each batch.
    fn on_batch(&mut self, report: &BatchReport);
    /// After each batch of an evaluation, with the number of examples seen.
    fn on_test_batch(&mut self, _examples: usize) {}
    /// After each epoch and its evaluation, before its checkpoint is written.
    ///
    /// # Errors
    /// Ends the run.
    fn on_epoch(&mut self, report: &EpochReport) -> Result<()>;
    /// Writes a checkpoint; `best` if no epoch had a better test top-1.
    ///
    /// # Errors
    /// Ends the run.
    fn save(&mut self, checkpoint: &Checkpoint, best: bool) -> Result<()>;
    /// Whether the run should save and stop now.
    fn should_stop(&self) -> bool;
}

/// One batch done.
#[derive(Debug, Clone)]
pub struct BatchReport {
    /// The epoch it belongs to, from 0.
    pub epoch: usize,
    /// Batches done of this epoch.
    pub batch: usize,
    /// Its images.
    pub examples: usize,
    /// Its mean loss.
    pub loss: f64,
    /// The learning rate in force.
    pub lr: f64,
}

/// One epoch done.
#[derive(Debug, Clone)]
pub struct EpochReport {
    /// Which, from 0.
    pub epoch: usize,
    /// Over its training batches, as they were trained on.
    pub train: Metrics,
    /// Over the test set afterwards.
    pub test: Metrics,
    /// The last learning rate.
    pub lr: f64,
}

/// How [`Trainer::run`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are done.
    Finished,
    /// The observer asked to stop; a checkpoint was written.
    Stopped,
}

/// A network, its optimizer, and where the run is.
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
    /// A new network, ready for its first epoch. `recipe` is kept in checkpoints as it is.
    ///
    /// # Errors
    /// If a setting is out of range.
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
            let message = "gradient checkpointing is for the CPU; leave it out on other devices";
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

    /// Takes up the run that `checkpoint`, read from `source`, was written by: it continues with the
    /// same losses, bit for bit, as one that was not interrupted.
    ///
    /// # Errors
    /// If the checkpoint is of another network.
    pub fn restore(&mut self, checkpoint: &Checkpoint, source: &Path) -> Result<()> {
        if checkpoint.model != self.model {
            let problem =
                format!("it holds a network of {:?}, this one is {:?}", checkpoint.model, self.model);
            return Err(Error::Mismatch { path: source.to_path_buf(), problem });
        }
        assign(&self.variables.all(), &checkpoint.tensors, source)?;
        assign(&self.optimizer.buffers(), &checkpoint.momentum, source)?;
        // A run that had no average starts one where it is.
        let averages = if checkpoint.average.is_empty() { &checkpoint.tensors } else { &checkpoint.average };
        let own = self.optimizer.averages();
        if !own.is_empty() {
            assign(&own, averages, source)?;
        }
        self.progress = checkpoint.progress.clone();
        self.optimizer.set_steps(self.progress.step);
        Ok(())
    }

    /// The run as it is now.
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

    /// Where the run is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Trains from where the run is to its last epoch.
    ///
    /// # Errors
    /// If the loss stops being a number, or data, network or observer fail.
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
            // Kernels for inference take a third of the time.
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

    /// A network of the averages, if they are kept.
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

    /// Trains to the end of the epoch, or, giving false, to where the observer stops it.
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
                let mut logits = None;
                let (network, smoothing) = (&self.network, self.config.label_smoothing);
                // On a thread of the pool: handing over each operation by itself would cost more than some take.
                let (loss, gradients) = rayon::scope(|_| {
                    value_and_gradients(|| -> Result<Tensor> {
                        let y = network.forward(&images, true)?;
                        let loss = cross_entropy(&y, &labels, smoothing)?;
                        logits = Some(y);
                        Ok(loss)
                    })
                })?;
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
                if let Some(logits) = logits {
                    self.progress.partial.add(&logits, &labels, loss)?;
                }
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

    fn learning_rate(&self, data: &impl Data, step: usize) -> f64 {
        let steps_per_epoch = data.batches_per_epoch().div_ceil(self.config.accumulate);
        self.config.schedule.learning_rate(self.config.lr, step, self.config.epochs * steps_per_epoch)
    }
}

fn detached(variables: Vec<(String, candle_core::Var)>) -> BTreeMap<String, Tensor> {
    variables.into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect()
}

/// Loss, top-1, top-5 and right answers a class of a `network`, images (N, 3, H, W) to logits, over `batches`.
/// `observe` is told the number of examples seen after each batch, and shown its logits (N, classes) and
/// labels (N).
///
/// # Errors
/// If data or network fail.
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
