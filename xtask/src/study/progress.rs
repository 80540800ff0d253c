//! The progress of a whole study: one bar over the work of all its runs.

use super::budget::words;
use crate::run_record::RunRecord;
use crate::train::progress::image_bar;
use indicatif::ProgressBar;
use resnext_train::{BatchReport, Checkpoint, EpochReport, Observer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Steps of the bar.
const STEPS: usize = 1000;

/// The runs that a process has to train, and how far they are. Work is counted in multiply-adds.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Images of a run, in all its epochs.
    images: usize,
    /// For each run the multiply-adds per image, and the images that are done.
    runs: Vec<(f64, usize)>,
    /// The time of the last batch, if the one after it follows without a break.
    last: Option<Instant>,
    /// What this process has done, and the seconds that it took.
    pace: (f64, f64),
}

impl Workload {
    /// Runs of `images` images each, by their multiply-adds per image, and whether they are complete.
    pub fn new(images: usize, runs: impl IntoIterator<Item = (f64, bool)>) -> Self {
        let done = |(cost, complete)| (cost, if complete { images } else { 0 });
        Workload { images, runs: runs.into_iter().map(done).collect(), last: None, pace: (0.0, 0.0) }
    }

    /// A break: what comes next says nothing about the time that a batch takes.
    fn pause(&mut self) {
        self.last = None;
    }

    /// A batch of run `run` ended at `now`, which then has `images` images done.
    fn advance(&mut self, run: usize, images: usize, now: Instant) {
        let (cost, done) = &mut self.runs[run];
        let work = *cost * images.saturating_sub(*done) as f64;
        *done = images;
        // The first batch waits for the loader; what a checkpoint had before it was trained at another time.
        if let Some(last) = self.last.replace(now) {
            self.pace.0 += work;
            self.pace.1 += (now - last).as_secs_f64();
        }
    }

    /// Run `run` has ended, early perhaps.
    fn end(&mut self, run: usize) {
        self.runs[run].1 = self.images;
        self.pause();
    }

    /// The share of all work that is done, from 0 to 1.
    fn done(&self) -> f64 {
        let all: f64 = self.runs.iter().map(|(cost, _)| cost * self.images as f64).sum();
        let done: f64 = self.runs.iter().map(|&(cost, images)| cost * images as f64).sum();
        if all > 0.0 { done / all } else { 1.0 }
    }

    /// Seconds that are left at the pace of this process; `None` before its second batch.
    fn seconds_left(&self) -> Option<f64> {
        let (work, seconds) = self.pace;
        let left: f64 =
            self.runs.iter().map(|&(cost, images)| cost * self.images.saturating_sub(images) as f64).sum();
        (work > 0.0).then(|| left * seconds / work)
    }
}

/// Shows how far a study is.
pub struct StudyProgress {
    bar: ProgressBar,
    work: Workload,
    /// The run that is trained now.
    run: usize,
}

impl StudyProgress {
    pub fn new(work: Workload) -> Self {
        let progress = StudyProgress { bar: image_bar(STEPS), work, run: 0 };
        progress.show();
        progress
    }

    /// Begins with a run, by its index.
    pub fn start_run(&mut self, run: usize) {
        self.run = run;
        self.work.pause();
    }

    /// The current run has ended.
    pub fn end_run(&mut self) {
        self.work.end(self.run);
        self.show();
    }

    /// The time that is left for the whole study, in words.
    pub fn left(&self) -> Option<String> {
        self.work.seconds_left().map(words)
    }

    fn show(&self) {
        self.bar.set_position((self.work.done() * STEPS as f64) as u64);
    }

    /// Prints a line above the bar.
    pub fn print(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
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
        let images = report.epoch * self.images_per_epoch + report.images;
        self.study.work.advance(self.study.run, images, Instant::now());
        self.study.show();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Three runs of 100 images, which take 1, 2 and 4 seconds per image. The first was trained elsewhere, and half of
    /// the second before this process began.
    #[test]
    fn what_is_left_follows_from_work_and_not_from_runs() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut work = Workload::new(100, [(1.0, true), (2.0, false), (4.0, false)]);
        assert_eq!((work.done(), work.seconds_left()), (100.0 / 700.0, None));
        work.pause();
        // The first batch of a session says where it goes on, and nothing about its pace.
        work.advance(1, 60, at(1000));
        assert_eq!(work.seconds_left(), None);
        work.advance(1, 70, at(1020));
        // 30 images of 2 s and 100 of 4 s.
        assert_eq!(work.seconds_left(), Some(460.0));
        work.advance(1, 100, at(1080));
        work.end(1);
        assert_eq!((work.done(), work.seconds_left()), (300.0 / 700.0, Some(400.0)));
        // A report is written between two runs, which takes its time once.
        work.advance(2, 10, at(5000));
        assert_eq!(work.seconds_left(), Some(360.0));
        // The pace is that of all batches so far.
        work.advance(2, 20, at(5060));
        assert_eq!(work.seconds_left(), Some(320.0 * 140.0 / 120.0));
        // Runs that end early leave nothing to do.
        work.end(2);
        assert_eq!((work.done(), work.seconds_left()), (1.0, Some(0.0)));
    }
}
