//! The training loop, to be read from top to bottom.

use crate::checkpoint::{Checkpoint, Progress, assign};
use crate::config::TrainConfig;
use crate::data::Data;
use crate::error::{Error, Result};
use crate::evaluate::evaluate;
use crate::observer::{BatchReport, EpochReport, Observer};
use crate::sgd::Sgd;
use crate::step::{ForwardBackward, forward_backward};
use candle_core::{DType, Device, Tensor};
use resnext_model::{Config, ResNext, Variables};
use resnext_ops::loss_value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

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
    metadata: BTreeMap<String, String>,
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
        config.validate(device)?;
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
        let (progress, metadata) = (Progress::default(), BTreeMap::new());
        Ok(Trainer {
            config,
            model: model.clone(),
            network,
            variables,
            optimizer,
            progress,
            recipe,
            metadata,
        })
    }

    /// Sets [`Checkpoint::metadata`], such as a [`Description`](resnext_model::Description) of the network's
    /// images and classes under its key.
    pub fn set_metadata(&mut self, metadata: BTreeMap<String, String>) {
        self.metadata = metadata;
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
            metadata: self.metadata.clone(),
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
            // On a CPU the inference form is about three times as fast.
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

    /// Trains to the end of the epoch, or until the observer stops the run. Returns whether the epoch is
    /// complete.
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
