//! The training loop, to be read from top to bottom.

use crate::accumulate::{accumulate, is_norm};
use crate::checkpoint::{Checkpoint, Progress, assign};
use crate::config::TrainConfig;
use crate::data::Data;
use crate::distributed::config::DistributedConfig;
use crate::distributed::data_parallel::DataParallel;
use crate::distributed::gradients::{ExchangeTimes, GradientSums};
use crate::distributed::processes::Processes;
use crate::distributed::shared_batch::{metrics_of_batch, share_of};
use crate::distributed::shared_norms::SharedNorms;
use crate::error::{Error, Result};
use crate::evaluate::evaluate;
use crate::loss::classes_of;
use crate::metrics::Metrics;
use crate::observer::{BatchReport, EpochReport, Observer};
use crate::optimizer::Optimizer;
use crate::parameter_group::Rules;
use crate::preflight;
use crate::running_stats::RunningStatsBefore;
use crate::step::{ForwardBackward, forward_backward_shared};
use candle_core::{DType, Device, Tensor, Var};
use resnext_model::{AnyNetwork, Architecture, DropPath, Head, Variables};
use resnext_ops::loss_value;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How [`Trainer::run`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are complete.
    Finished,
    /// The test top-1 was not better for [`TrainConfig::early_stopping`] epochs.
    EarlyStopped,
    /// The observer asked to stop; a checkpoint was saved.
    Stopped,
}

/// A network in training: its weights, its optimizer and the position of the run.
#[derive(Debug)]
pub struct Trainer {
    config: TrainConfig,
    model: Architecture,
    network: AnyNetwork,
    variables: Variables,
    optimizer: Optimizer,
    progress: Progress,
    recipe: serde_json::Value,
    metadata: BTreeMap<String, String>,
    /// The time of the current epoch's training, and the part of it that was spent waiting for batches.
    times: [Duration; 2],
    parallel: DataParallel,
}

impl Trainer {
    /// Creates a network with random weights on `device`, before its first epoch: a [`Config`](resnext_model::Config) or
    /// any [`Architecture`]. `recipe` is stored in checkpoints unchanged.
    ///
    /// # Errors
    /// If a setting is out of range, or `device` or the network does not support it.
    pub fn new(
        model: impl Into<Architecture>,
        config: TrainConfig,
        recipe: serde_json::Value,
        device: &Device,
    ) -> Result<Self> {
        let model = model.into();
        config.validate(device)?;
        config.check_network(&model)?;
        let variables = Variables::new(config.seed, DType::F32, device);
        let mut network = AnyNetwork::new(&model, variables.builder())?;
        network.set_mixed_precision(config.amp.dtype())?;
        let stages = model.stages();
        if let Some(network) = network.resnext_mut() {
            network.set_recompute(config.grad_checkpoint);
            network.freeze(config.freeze.stages(stages)?);
            network.freeze_norms(config.freeze_norms);
        }
        let rules = Rules { decay_of: config.decay_of, layer_decay: config.layer_decay, stages };
        let group = |name: &str, dims: &[usize]| rules.group(name, dims);
        let mut optimizer = Optimizer::new(&config.optimizer, variables.trainable(), group)?;
        if config.ema != 0.0 {
            let trained = variables.trainable();
            let is_trained = |name: &str| trained.iter().any(|(own, _)| own == name);
            let others = variables.all().into_iter().filter(|(name, _)| !is_trained(name)).collect();
            optimizer = optimizer.with_average(config.ema, others)?;
        }
        let (progress, metadata) = (Progress::default(), BTreeMap::new());
        Ok(Trainer {
            config,
            model,
            network,
            variables,
            optimizer,
            progress,
            recipe,
            metadata,
            times: [Duration::ZERO; 2],
            parallel: DataParallel::single(),
        })
    }

    /// Has this network trained by several processes, each of which has a trainer with the same settings, weights and
    /// progress. Batch sizes are those of whole batches, whatever the number of processes.
    ///
    /// A process calls its observer as a single process does, with sums over all processes, but only rank 0 saves
    /// checkpoints, and if one observer stops the run, all stop.
    ///
    /// # Errors
    /// [`Error::Config`] if batch norms cannot be synchronised.
    pub fn distribute(&mut self, processes: Arc<Processes>, config: &DistributedConfig) -> Result<()> {
        self.parallel = DataParallel::new(processes, config, self.trained(), self.variables.device())?;
        Ok(())
    }

    /// The variables that the optimizer gets gradients of.
    fn trained(&self) -> Vec<(String, Var)> {
        let mut trained = self.variables.trainable();
        trained.retain(|(name, var)| !(self.config.freeze_norms && is_norm(name, var)));
        trained
    }

    /// What the sums of gradients over processes have cost so far; `None` for a single process.
    pub fn exchange_times(&self) -> Option<&ExchangeTimes> {
        self.parallel.sums.as_ref().map(GradientSums::times)
    }

    /// Sets [`Checkpoint::metadata`], such as a [`Description`](resnext_model::Description) of the network's
    /// images and classes under its key.
    pub fn set_metadata(&mut self, metadata: BTreeMap<String, String>) {
        self.metadata = metadata;
    }

    /// Adds an entry to [`Checkpoint::metadata`].
    pub fn add_metadata(&mut self, key: &str, value: String) {
        self.metadata.insert(key.to_string(), value);
    }

    /// Starts from trained weights, by their torchvision names, which were read from `source`. With
    /// [`Head::Fresh`] the last layer keeps its initial values, and its weights may be absent.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the weights belong to another network; nothing changes then.
    pub fn start_from(
        &mut self,
        weights: &BTreeMap<String, Tensor>,
        head: Head,
        source: &Path,
    ) -> Result<()> {
        let last = format!("{}.", self.model.head());
        let loaded = |name: &str| head == Head::Loaded || !name.starts_with(&last);
        let variables: Vec<(String, Var)> =
            self.variables.all().into_iter().filter(|(name, _)| loaded(name)).collect();
        let weights = weights.iter().filter(|(name, _)| loaded(name));
        assign(&variables, &weights.map(|(name, t)| (name.clone(), t.clone())).collect(), source)?;
        // Averages start at the weights.
        let values: BTreeMap<String, Var> = self.variables.all().into_iter().collect();
        for (name, average) in self.optimizer.averages() {
            average.set(values[&name].as_tensor())?;
        }
        Ok(())
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
        if checkpoint.squares.is_empty() != self.optimizer.squares().is_empty() {
            let problem = "its optimizer is another one, whose state this one cannot use".to_string();
            return Err(Error::Mismatch { path: source.to_path_buf(), problem });
        }
        assign(&self.optimizer.momentum(), &checkpoint.momentum, source)?;
        assign(&self.optimizer.squares(), &checkpoint.squares, source)?;
        // If the saved run kept no average, one starts from its current weights.
        let averages = if checkpoint.average.is_empty() { &checkpoint.tensors } else { &checkpoint.average };
        let own = self.optimizer.averages();
        if !own.is_empty() {
            assign(&own, averages, source)?;
        }
        self.progress = checkpoint.progress.clone();
        if self.progress.images == 0 && self.progress.batch > 0 {
            // Checkpoints of earlier versions only count the images that were seen.
            self.progress.images = self.progress.partial.count;
        }
        if checkpoint.average.is_empty() && !own.is_empty() {
            self.progress.average_from = self.progress.step;
        }
        self.optimizer.set_steps(self.progress.step, self.progress.average_from);
        Ok(())
    }

    /// The current state of the run.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            tensors: detached(self.variables.all()),
            momentum: detached(self.optimizer.momentum()),
            squares: detached(self.optimizer.squares()),
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

    /// Checks that the run can go on from its current position with `data`, as [`run`](Self::run) does before
    /// its first step.
    ///
    /// # Errors
    /// [`Error::Config`] if batch norms are synchronised and a class with images has no weight;
    /// [`Error::OtherData`] if the run was on another training set, [`Error::Data`] if a batch of an epoch
    /// will be too small for batch norm.
    pub fn check(&self, data: &impl Data) -> Result<()> {
        let stages = self.model.stages();
        let trained = self.config.freeze.is_empty() || self.config.freeze.stages(stages)? != Some(stages);
        let norms = trained && !self.config.freeze_norms;
        self.parallel.check_class_weights(&self.config.class_weights, &data.class_counts())?;
        preflight::check(data, &self.progress, &self.model, norms, self.parallel.processes.size())
    }

    /// Checks that all processes have the same settings, data, weights, optimizer state and position, as
    /// [`run`](Self::run) does before its first step. To be called by all of them.
    ///
    /// # Errors
    /// [`Error::AllProcesses`] in all of them alike, which says what differs in which rank.
    pub fn check_processes(&self, data: &impl Data) -> Result<()> {
        if self.parallel.processes.size() == 1 {
            return Ok(());
        }
        self.parallel.check_same_run(&[
            ("network", format!("{:?}", self.model)),
            ("recipe", format!("{} {:?}", self.recipe, self.config)),
            ("data set", data.fingerprint()),
            ("position in the run", format!("{:?}", self.progress)),
        ])?;
        self.parallel.processes.check_same(&data.contents())?;
        self.check_state()
    }

    /// Has NCCL add up gradients on GPUs, as [`run`](Self::run) does before its first step. Returns whether it will: the
    /// program is built with the feature `nccl`, and each process has a GPU that no other one has. To be called by all
    /// processes, after [`check_processes`](Self::check_processes).
    ///
    /// # Errors
    /// If NCCL cannot bring the processes together.
    pub fn connect(&mut self) -> Result<bool> {
        self.parallel.connect(self.variables.device())
    }

    /// Checks that all processes hold the same weights, optimizer state and averages.
    fn check_state(&self) -> Result<()> {
        self.parallel.check_same_values(|| {
            [
                ("weights", self.variables.all()),
                ("momentum", self.optimizer.momentum()),
                ("mean squares of gradients", self.optimizer.squares()),
                ("averaged weights", self.optimizer.averages()),
            ]
        })
    }

    /// Trains from the current position to the last epoch, and evaluates after each epoch.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss becomes infinite or NaN; before the first step, [`Error::OtherData`] if
    /// the run was on another training set, and [`Error::Data`] if a batch of an epoch will be too small for
    /// batch norm; any error of the data, the network or the observer.
    pub fn run(&mut self, data: &impl Data, observer: &mut impl Observer) -> Result<Outcome> {
        self.check(data)?;
        self.check_processes(data)?;
        self.connect()?;
        self.progress.data = Some(data.fingerprint());
        while self.progress.epoch < self.config.epochs {
            if self.is_over() {
                return Ok(Outcome::EarlyStopped);
            }
            let epoch = self.progress.epoch;
            let complete = self.config.amp.during(|| self.train_epoch(data, observer))?;
            let test = if complete { self.evaluate(data, observer)? } else { None };
            let Some(test) = test else {
                observer.on_stop();
                self.save(observer, false)?;
                return Ok(Outcome::Stopped);
            };
            let train = std::mem::take(&mut self.progress.partial);
            let best = test.top1() > self.progress.best_top1 || epoch == 0;
            self.progress.best_top1 = test.top1().max(self.progress.best_top1);
            self.progress.epoch += 1;
            if best {
                self.progress.best_epoch = self.progress.epoch;
            }
            (self.progress.batch, self.progress.images) = (0, 0);
            let lr = self.learning_rate(data, self.schedule_step(data).saturating_sub(1));
            let [time, wait] = self.times;
            observer.on_epoch(&EpochReport { epoch, train, test, lr, time, wait })?;
            self.save(observer, best)?;
        }
        Ok(Outcome::Finished)
    }

    /// Has rank 0 save a checkpoint, which is the same in all processes.
    fn save(&self, observer: &mut impl Observer, best: bool) -> Result<()> {
        match self.parallel.processes.rank() {
            0 => observer.save(&self.checkpoint(), best),
            _ => Ok(()),
        }
    }

    /// Whether the run has gone on for long enough without a better test top-1.
    pub fn is_over(&self) -> bool {
        let Progress { epoch, best_epoch, .. } = self.progress;
        let patience = self.config.early_stopping;
        patience > 0 && epoch - best_epoch.min(epoch) >= patience
    }

    /// Evaluates the network, or its average, on the test set; `None` if the observer stops the run before
    /// the last batch.
    fn evaluate(&self, data: &impl Data, observer: &mut impl Observer) -> Result<Option<Metrics>> {
        self.check_state()?;
        let averaged = self.averaged()?;
        let network = averaged.as_ref().unwrap_or(&self.network);
        // On a CPU the inference form is about three times as fast.
        let fused = self.variables.device().is_cpu().then(|| network.fuse_to(DType::F32)).transpose()?;
        let forward = |images: &Tensor| match &fused {
            Some(fused) => fused.forward(images),
            None => network.forward(images, false),
        };
        let stopped = Cell::new(false);
        let (mut parts, mut examples) = (Vec::new(), 0);
        for batch in data.test() {
            let watch = |count: usize, _: &Tensor, _: &Tensor| {
                observer.on_test_batch(examples + count);
                stopped.set(observer.should_stop());
                Ok(())
            };
            let part = evaluate(forward, Box::new(std::iter::once(batch)), watch)?;
            examples += part.count;
            parts.push(part);
            if stopped.get() {
                break;
            }
        }
        if self.parallel.processes.any(stopped.get())? {
            return Ok(None);
        }
        Metrics::of_batches(&parts, &self.parallel.processes, self.model.classes()).map(Some)
    }

    /// A network with the averaged weights, if averages are kept.
    fn averaged(&self) -> Result<Option<AnyNetwork>> {
        let averages = detached(self.optimizer.averages());
        if averages.is_empty() {
            return Ok(None);
        }
        let variables = Variables::new(self.config.seed, DType::F32, self.variables.device());
        let network = AnyNetwork::new(&self.model, variables.builder())?;
        for (name, var) in variables.all() {
            var.set(&averages[&name])?;
        }
        Ok(Some(network))
    }

    /// Trains to the end of the epoch, or until the observer stops the run. Returns whether the epoch is
    /// complete.
    fn train_epoch(&mut self, data: &impl Data, observer: &mut impl Observer) -> Result<bool> {
        let epoch = self.progress.epoch;
        let (images_per_epoch, batch_size) = (data.images_per_epoch(), data.batch_size());
        let start = Instant::now();
        self.times = [Duration::ZERO; 2];
        let mut batches = data.train(epoch, self.progress.images);
        while self.progress.images < images_per_epoch {
            let left = (images_per_epoch - self.progress.images).div_ceil(batch_size);
            let group = left.min(self.config.accumulate);
            let lr = self.learning_rate(data, self.schedule_step(data));
            let mut sums: HashMap<candle_core::TensorId, Tensor> = HashMap::new();
            let before = self.norms_to_average()?;
            let mut image_share = 0.0;
            if let Some(shared) = &mut self.parallel.sums {
                shared.begin();
            }
            for number in 0..group {
                let asked = Instant::now();
                let (images, targets) =
                    batches.next().ok_or_else(|| Error::Data("the epoch ended early".into()))??;
                self.times[1] += asked.elapsed();
                let share = share_of(&self.parallel.processes, &targets, &self.config.class_weights)?;
                image_share += share.images / group as f64;
                let (weight, last) = (share.loss / group as f64, number + 1 == group);
                let drop_path = self.drop_path();
                if let Some(network) = self.network.resnext_mut() {
                    network.set_drop_path(drop_path);
                }
                let norms = self
                    .parallel
                    .syncs_norms()
                    .then(|| SharedNorms::sums(&self.parallel.processes, share.loss));
                let TrainConfig { loss, label_smoothing, ref class_weights, .. } = self.config;
                let mut arriving = self.parallel.sums.as_mut().filter(|_| last);
                let ForwardBackward { loss, logits, gradients, .. } = forward_backward_shared(
                    |images| self.network.forward(images, true),
                    &images,
                    |logits| loss.weighted(logits, &targets, label_smoothing, class_weights),
                    norms,
                    |variable, gradient| match &mut arriving {
                        Some(shared) => shared.arrived(variable, gradient, weight),
                        None => Ok(()),
                    },
                )?;
                let labels = classes_of(&targets)?;
                let loss = loss_value(&loss, &labels, self.model.classes())?;
                match &mut self.parallel.sums {
                    Some(shared) if last => sums = shared.finish(&gradients, weight)?,
                    Some(shared) => shared.accumulate(&gradients, weight)?,
                    None => accumulate(&mut sums, &gradients, &self.trained(), group)?,
                }
                let expected = batch_size.min(images_per_epoch - self.progress.images);
                let (metrics, loss) = metrics_of_batch(
                    &self.parallel.processes,
                    (&logits, &labels),
                    (loss, share.loss),
                    expected,
                )?;
                if !loss.is_finite() {
                    return Err(Error::Diverged { step: self.progress.step, loss });
                }
                let examples = metrics.count;
                self.progress.partial.merge(&metrics);
                self.progress.batch += 1;
                // A batch stands for this many places of the epoch's order, even if an image in it could not
                // be read.
                self.progress.images = images_per_epoch.min(self.progress.images + batch_size);
                let Progress { batch, images, .. } = self.progress;
                observer.on_batch(&BatchReport { epoch, batch, images, examples, loss, lr });
            }
            let stops = before.average(&self.parallel.processes, image_share, observer.should_stop())?;
            if let Some(clip) = self.config.clip {
                let mut clipped: Vec<(candle_core::TensorId, Tensor)> = Vec::with_capacity(sums.len());
                for (_, var) in self.variables.trainable() {
                    clipped.extend(sums.remove(&var.id()).map(|gradient| (var.id(), gradient)));
                }
                clip.apply(clipped.iter_mut().map(|(_, gradient)| gradient))?;
                sums.extend(clipped);
            }
            self.optimizer.step(lr, |var| sums.get(&var.id()))?;
            self.progress.step += 1;
            self.times[0] = start.elapsed();
            if stops {
                return Ok(false);
            }
            if observer.should_save() {
                self.save(observer, false)?;
            }
        }
        // An error that concerns the whole epoch comes after its last batch.
        batches.next().transpose()?;
        Ok(true)
    }

    /// The running statistics that each process moves by its own part of a batch, as they are before a step.
    fn norms_to_average(&self) -> Result<RunningStatsBefore> {
        let moved =
            self.parallel.processes.size() > 1 && !self.parallel.syncs_norms() && !self.config.freeze_norms;
        RunningStatsBefore::copy(if moved { self.variables.all() } else { Vec::new() })
    }

    /// The draw of stochastic depth for the next batch, which depends on the batch's place in the run and on the
    /// part of it that this process has.
    fn drop_path(&self) -> Option<DropPath> {
        let TrainConfig { drop_path: rate, seed, .. } = self.config;
        // A batch has at least one image per process, so no two draws are the same.
        let place = self.progress.images + self.parallel.processes.rank();
        let draw = ((self.progress.epoch as u64) << 32) + place as u64;
        (rate > 0.0).then_some(DropPath { rate, seed, draw })
    }

    /// The position in the schedule, in optimizer steps of this batch size. It counts images, so that a run
    /// which continues with another batch size continues at the same place of its schedule.
    fn schedule_step(&self, data: &impl Data) -> usize {
        let images_per_step = data.batch_size() * self.config.accumulate;
        self.progress.epoch * self.steps_per_epoch(data) + self.progress.images / images_per_step
    }

    fn steps_per_epoch(&self, data: &impl Data) -> usize {
        data.batches_per_epoch().div_ceil(self.config.accumulate)
    }

    /// The learning rate of optimizer step `step`, from 0.
    fn learning_rate(&self, data: &impl Data, step: usize) -> f64 {
        let total = self.config.epochs * self.steps_per_epoch(data);
        self.config.schedule.learning_rate(self.config.lr, step, total)
    }
}

/// The variables' values, outside of any gradient computation.
fn detached(variables: Vec<(String, Var)>) -> BTreeMap<String, Tensor> {
    variables.into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect()
}
