//! Reports of a run's progress, and the trait that receives them, which the caller implements.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::metrics::Metrics;
use std::time::Duration;

/// Receives a run's progress, saves its checkpoints and decides whether it continues.
pub trait Observer {
    /// Called after each training batch.
    fn on_batch(&mut self, report: &BatchReport);
    /// Called after each evaluation batch with the number of examples seen so far.
    fn on_test_batch(&mut self, _examples: usize) {}
    /// Called after each epoch and its evaluation, before its checkpoint is saved.
    ///
    /// # Errors
    /// An error ends the run and is returned by [`Trainer::run`](crate::Trainer::run).
    fn on_epoch(&mut self, report: &EpochReport) -> Result<()>;
    /// Saves a checkpoint; `best` is true if this epoch has the best test top-1 accuracy so far. The best one
    /// must be written before the last one: a run that is killed between the two repeats the epoch.
    ///
    /// # Errors
    /// An error ends the run and is returned by [`Trainer::run`](crate::Trainer::run).
    fn save(&mut self, checkpoint: &Checkpoint, best: bool) -> Result<()>;
    /// Whether the run should save a checkpoint and stop; called in each optimizer step, behind its
    /// batches, and after each evaluation batch.
    fn should_stop(&self) -> bool;
    /// Called when the run stops because [`should_stop`](Self::should_stop) was true, in all processes if any one's was,
    /// before the checkpoint is saved.
    fn on_stop(&mut self) {}
    /// Whether the run should save a checkpoint now and go on, such as [`SaveTimer`](crate::SaveTimer) says;
    /// called after each optimizer step.
    fn should_save(&self) -> bool {
        false
    }
}

/// Progress after one training batch.
#[derive(Debug, Clone)]
pub struct BatchReport {
    /// The current epoch, from 0.
    pub epoch: usize,
    /// Completed batches of this epoch.
    pub batch: usize,
    /// Completed images of this epoch.
    pub images: usize,
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
    /// The time that training took, without evaluation; of an epoch that was resumed, since then.
    pub time: Duration,
    /// The part of that time in which the step waited for a batch.
    pub wait: Duration,
}
