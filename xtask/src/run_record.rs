//! The files that a run writes to its folder while it trains: metrics, curves, events and checkpoints.

use crate::history::Epoch;
use crate::run_folder::RunFolder;
use crate::tensorboard::EventFile;
use anyhow::Result;
use resnext_train::{Checkpoint, EpochReport, SaveTimer};
use std::time::{Duration, Instant};

/// The folder of a run that is training, and when it is written to.
pub struct RunRecord {
    folder: RunFolder,
    events: EventFile,
    timer: SaveTimer,
    start: Instant,
    /// The time that training has taken in this session, and the part of it in which it waited for images.
    training: [Duration; 2],
}

impl RunRecord {
    /// `done`: complete epochs of an earlier part of the run.
    pub fn new(folder: RunFolder, done: usize, save_every: Duration) -> Result<Self> {
        let events = EventFile::create(&folder.path, done)?;
        Ok(RunRecord {
            folder,
            events,
            timer: SaveTimer::new(save_every),
            start: Instant::now(),
            training: Default::default(),
        })
    }

    /// The run's folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Adds an epoch, and returns it as a row of the metrics.
    pub fn add(&mut self, report: &EpochReport) -> resnext_train::Result<Epoch> {
        self.training = [self.training[0] + report.time, self.training[1] + report.wait];
        let row = Epoch::new(report, self.start.elapsed().as_secs_f64());
        let values = [
            ("loss/train", row.train_loss),
            ("loss/test", row.test_loss),
            ("top-1/train", row.train_top1),
            ("top-1/test", row.test_top1),
            ("top-5/test", row.test_top5),
            ("learning rate", row.lr),
            ("seconds per epoch", report.time.as_secs_f64()),
            ("share of time waiting for images", share_waiting(report)),
        ];
        let written = self.folder.add(row.clone()).and_then(|()| self.events.scalars(row.epoch, &values));
        written.map_err(|error| resnext_train::Error::Config(format!("{error:#}")))?;
        Ok(row)
    }

    /// The share of this session's training, from 0 to 1, in which it waited for images; `None` before its first epoch.
    pub fn share_waiting(&self) -> Option<f64> {
        let [time, wait] = self.training.map(|time| time.as_secs_f64());
        (time > 0.0).then(|| wait / time)
    }

    /// Saves a checkpoint.
    pub fn save(&mut self, checkpoint: &Checkpoint, best: bool) -> resnext_train::Result<()> {
        self.folder.save(checkpoint, best)?;
        self.timer.saved();
        Ok(())
    }

    /// Whether the last checkpoint is old enough for another one.
    pub fn save_is_due(&self) -> bool {
        self.timer.is_due()
    }
}

/// The share of an epoch's training, from 0 to 1, in which it waited for images.
pub fn share_waiting(report: &EpochReport) -> f64 {
    report.wait.as_secs_f64() / report.time.as_secs_f64().max(1e-9)
}
