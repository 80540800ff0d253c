//! Training in a process other than the first one, which computes and neither prints nor writes.

use super::shared_unreadable::SharedUnreadable;
use resnext_train::{BatchReport, Checkpoint, EpochReport, Observer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stops the run of all processes when this one receives a signal.
pub struct Follower<'a> {
    pub stop: Arc<AtomicBool>,
    pub unreadable: SharedUnreadable<'a>,
}

impl Observer for Follower<'_> {
    fn on_batch(&mut self, _: &BatchReport) {}

    fn on_epoch(&mut self, _: &EpochReport) -> resnext_train::Result<()> {
        self.unreadable.exchange()
    }

    /// The first process saves.
    fn save(&mut self, _: &Checkpoint, _: bool) -> resnext_train::Result<()> {
        Ok(())
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
