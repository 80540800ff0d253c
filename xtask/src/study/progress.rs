//! The progress of a whole study: one bar over the images of all its runs.

use super::budget::words;
use crate::run_record::RunRecord;
use crate::train::progress::image_bar;
use indicatif::ProgressBar;
use resnext_train::{BatchReport, Checkpoint, EpochReport, Observer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Shows how far a study is.
pub struct StudyProgress {
    bar: ProgressBar,
    /// Images of all runs that this process is to train, in all their epochs.
    images: usize,
    /// Images of the runs before the current one.
    before: usize,
    /// When this process ended its first batch, and the position then.
    since: Option<(Instant, usize)>,
    position: usize,
}

impl StudyProgress {
    pub fn new(images: usize) -> Self {
        StudyProgress { bar: image_bar(images), images, before: 0, since: None, position: 0 }
    }

    /// Goes on with the next run, after those that have `images` together.
    pub fn start_run(&mut self, images: usize) {
        self.before = images;
        self.set(images);
        // A run that was trained before is not this process's speed.
        self.since = None;
    }

    /// The time that is left for the whole study, in words.
    pub fn left(&self) -> Option<String> {
        let (start, first) = self.since?;
        let done = self.position.checked_sub(first).filter(|&done| done > 0)?;
        let seconds = start.elapsed().as_secs_f64() / done as f64;
        Some(words(seconds * self.images.saturating_sub(self.position) as f64))
    }

    /// Prints a line above the bar.
    pub fn print(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn set(&mut self, position: usize) {
        self.position = position;
        self.bar.set_position(position as u64);
    }
}

/// Follows one run of a study.
pub struct RunObserver<'a> {
    pub study: &'a mut StudyProgress,
    pub record: RunRecord,
    /// Which run this is, in words.
    pub name: String,
    pub epochs: usize,
    pub images_per_epoch: usize,
    /// Set by Ctrl-C.
    pub stop: Arc<AtomicBool>,
}

impl Observer for RunObserver<'_> {
    fn on_batch(&mut self, report: &BatchReport) {
        let position = self.study.before + report.epoch * self.images_per_epoch + report.images;
        self.study.set(position);
        // The first batch waits for the loader.
        self.study.since.get_or_insert_with(|| (Instant::now(), position));
        let left = self.study.left().map_or(String::new(), |left| format!(", {left} left in all"));
        self.study.bar.set_message(format!(
            "{}: epoch {}/{}, loss {:.3}{left}",
            self.name,
            report.epoch + 1,
            self.epochs,
            report.loss
        ));
    }

    fn on_epoch(&mut self, report: &EpochReport) -> resnext_train::Result<()> {
        self.record.add(report).map(drop)
    }

    fn save(&mut self, checkpoint: &Checkpoint, best: bool) -> resnext_train::Result<()> {
        self.record.save(checkpoint, best)
    }

    fn should_save(&self) -> bool {
        self.record.save_is_due()
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
