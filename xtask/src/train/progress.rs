//! The progress of a run: the lines that it prints, and the files that it writes to its folder.

use super::shared_unreadable::SharedUnreadable;
use crate::report::FIVE;
use crate::run_folder::RunFolder;
use crate::run_record::{RunRecord, share_waiting};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use resnext_train::{BatchReport, Checkpoint, EpochReport, Observer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Shows a bar and a line per epoch; writes metrics, curves and checkpoints.
pub struct Progress<'a> {
    record: RunRecord,
    bar: ProgressBar,
    epochs: usize,
    images_per_epoch: usize,
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
    speed: Speed,
    /// The other processes, if there are any.
    others: Option<SharedUnreadable<'a>>,
}

/// Images per second of an epoch so far. Its first batch is left out, which waits for the loader.
#[derive(Default)]
struct Speed {
    /// When the first batch ended, and the images since.
    since: Option<(Instant, usize)>,
}

impl Speed {
    /// Counts a batch; `None` for the first one.
    fn add(&mut self, images: usize) -> Option<f64> {
        match &mut self.since {
            None => {
                self.since = Some((Instant::now(), 0));
                None
            }
            Some((start, counted)) => {
                *counted += images;
                Some(*counted as f64 / start.elapsed().as_secs_f64().max(1e-9))
            }
        }
    }
}

/// A bar over the images of training, with a message.
pub fn image_bar(images: usize) -> ProgressBar {
    let bar = ProgressBar::new(images as u64);
    let style = ProgressStyle::with_template("{bar:20} {percent:>3} %  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

impl<'a> Progress<'a> {
    /// `done`: epochs and images that an earlier part of the run has done.
    pub fn new(
        record: RunRecord,
        epochs: usize,
        images_per_epoch: usize,
        done: (usize, usize),
        stop: Arc<AtomicBool>,
    ) -> Self {
        let bar = image_bar(epochs * images_per_epoch);
        bar.set_position((done.0 * images_per_epoch + done.1) as u64);
        bar.set_message(format!("epoch {}/{epochs}: first batch …", done.0 + 1));
        Progress { record, bar, epochs, images_per_epoch, stop, speed: Speed::default(), others: None }
    }

    /// The progress of several processes, of which this one writes and prints.
    pub fn of_all(self, others: SharedUnreadable<'a>) -> Self {
        Progress { others: Some(others), ..self }
    }

    /// The run's folder.
    pub fn folder(&self) -> &RunFolder {
        self.record.folder()
    }

    /// The share of this session's training, from 0 to 1, in which it waited for images; `None` before its first epoch.
    pub fn share_waiting(&self) -> Option<f64> {
        self.record.share_waiting()
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Progress<'_> {
    fn on_batch(&mut self, report: &BatchReport) {
        self.bar.set_position((report.epoch * self.images_per_epoch + report.images) as u64);
        let mut message = format!("epoch {}/{}: loss {:.3}", report.epoch + 1, self.epochs, report.loss);
        match self.speed.add(report.examples) {
            // The estimate starts here: reading a resumed run or evaluating an epoch is not the speed of
            // training.
            None => self.bar.reset_eta(),
            Some(speed) => {
                message += &format!(", {speed:.0} images/s, {:#} left", HumanDuration(self.bar.eta()));
            }
        }
        self.bar.set_message(message);
    }

    fn on_test_batch(&mut self, examples: usize) {
        self.bar.set_message(format!("testing: {examples} images"));
    }

    fn on_stop(&mut self) {
        if self.others.is_some() {
            self.bar.suspend(|| eprintln!("stopping: all processes have finished the step"));
        }
    }

    fn on_epoch(&mut self, report: &EpochReport) -> resnext_train::Result<()> {
        self.others.as_ref().map_or(Ok(()), SharedUnreadable::exchange)?;
        let row = self.record.add(report)?;
        let top5 = match report.test.per_class.len() > FIVE {
            true => format!(", top-5 {:>6.2} %", 100.0 * row.test_top5),
            false => String::new(),
        };
        let line = format!(
            "epoch {:>width$}/{}: loss {:.4}, top-1 {:>6.2} %; \
             test loss {:.4}, top-1 {:>6.2} %{}; {:.0} s",
            row.epoch,
            self.epochs,
            row.train_loss,
            100.0 * row.train_top1,
            row.test_loss,
            100.0 * row.test_top1,
            top5,
            row.seconds,
            width = self.epochs.to_string().len(),
        );
        self.bar.suspend(|| println!("{line}"));
        self.speed = Speed::default();
        let share = share_waiting(report);
        if share >= 0.01 {
            self.bar.suspend(|| println!("       {:.0} % of training waited for images", 100.0 * share));
        }
        Ok(())
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
