//! `cargo xtask train`

use crate::convert::in_form;
use crate::data::{DatasetName, Loaders};
use crate::device::{self, DeviceName};
use crate::recipe::{Overrides, Recipe};
use crate::run_folder::{LAST, Row, RunFolder, file_in};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use resnext_model::Summary;
use resnext_train::{BatchReport, Checkpoint, Data, EpochReport, Observer, Outcome, Trainer};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    overrides: Overrides,
    /// TOML file with all settings; without it, this repository's recipe for the data set
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// Go on with the run in this folder
    #[arg(long, conflicts_with_all = ["recipe", "out"])]
    resume: Option<PathBuf>,
    /// Folder for the run; without it, a new one under runs/
    #[arg(long)]
    out: Option<PathBuf>,
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: DeviceName,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let device = args.device.open()?;
    let resumed = match &args.resume {
        Some(path) => {
            let file = file_in(path, LAST);
            let checkpoint = Checkpoint::load(&file, &device)?;
            // A run may go on in another form.
            let form = args.overrides.form.unwrap_or(checkpoint.model.form);
            Some((in_form(checkpoint, form, &file)?, file))
        }
        None => None,
    };
    let mut recipe = match (&resumed, &args.recipe) {
        (Some((checkpoint, file)), _) => serde_json::from_value(checkpoint.recipe.clone())
            .with_context(|| format!("the recipe in {}", file.display()))?,
        (None, Some(path)) => Recipe::read(path)?,
        (None, None) => Recipe::of(args.overrides.dataset.unwrap_or(DatasetName::Synthetic))?,
    };
    recipe.apply(&args.overrides);

    let splits = recipe.dataset.open(recipe.data.as_deref())?;
    let model = recipe.network(splits.train.class_names().len())?;
    let (height, width) = splits.train.size();
    let loaders = Loaders::new(splits, recipe.batch_size, recipe.augment, recipe.seed, &device)?;
    let mut trainer = Trainer::new(&model, recipe.training(), serde_json::to_value(&recipe)?, &device)?;
    // Only now that every input is known to be good does anything get written.
    let folder = match resumed {
        Some((checkpoint, file)) => {
            trainer.restore(&checkpoint, &file)?;
            let folder = file.parent().map(PathBuf::from).unwrap_or_default();
            RunFolder::resume(folder, trainer.progress().epoch)?
        }
        None => RunFolder::create(args.out, &recipe)?,
    };
    if trainer.progress().epoch >= recipe.epochs {
        bail!("{} has done its {} epochs; --epochs asks for more", folder.path.display(), recipe.epochs);
    }
    let summary = Summary::new(&model, height, width)?;
    println!(
        "{} (form {}): {} parameters, {:.1} M multiply-adds an image; {} training and {} test images; {} epochs into {}",
        recipe.model,
        recipe.form,
        summary.parameters(),
        summary.multiply_adds() as f64 / 1e6,
        loaders.train_set().len(),
        loaders.test_set().len(),
        recipe.epochs,
        folder.path.display(),
    );

    let stop = Arc::new(AtomicBool::new(false));
    let handler = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        // The first asks, the second insists: the last checkpoint is whole all the same.
        if handler.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; Ctrl-C again to stop at once");
    })?;
    let run = folder.path.display().to_string();
    let mut watcher = Watcher::new(folder, &recipe, loaders.batches_per_epoch(), stop);
    let outcome = trainer.run(&loaders, &mut watcher)?;
    watcher.bar.finish_and_clear();
    match outcome {
        Outcome::Finished => {
            println!(
                "best test top-1 {:.2} %; {run} has metrics.csv, curves.svg, last.safetensors and best.safetensors",
                100.0 * trainer.progress().best_top1
            );
            println!("next: cargo xtask eval {run}");
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Stopped => {
            println!("stopped and saved; go on with: cargo xtask train --resume {run}");
            Ok(ExitCode::from(130))
        }
    }
}

/// Shows the run and writes its folder.
struct Watcher {
    folder: RunFolder,
    bar: ProgressBar,
    epochs: usize,
    batches: usize,
    batch_size: usize,
    stop: Arc<AtomicBool>,
    start: Instant,
    /// Images trained on since `epoch_start`.
    images: usize,
    epoch_start: Instant,
}

impl Watcher {
    fn new(folder: RunFolder, recipe: &Recipe, batches: usize, stop: Arc<AtomicBool>) -> Self {
        let bar = ProgressBar::new((recipe.epochs * batches) as u64);
        let style = ProgressStyle::with_template("{bar:30} {msg}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        let (epochs, batch_size, now) = (recipe.epochs, recipe.batch_size, Instant::now());
        Watcher { folder, bar, epochs, batches, batch_size, stop, start: now, images: 0, epoch_start: now }
    }
}

impl Observer for Watcher {
    fn on_batch(&mut self, report: &BatchReport) {
        self.bar.set_position((report.epoch * self.batches + report.batch) as u64);
        if self.images == 0 {
            // The first batch of an epoch, or of a resumed run: from here on speed and time left count.
            self.bar.reset_eta();
            self.epoch_start = Instant::now();
        }
        self.images += report.examples;
        let timed = self.images.saturating_sub(self.batch_size) as f64;
        let speed = timed / self.epoch_start.elapsed().as_secs_f64().max(1e-9);
        self.bar.set_message(format!(
            "epoch {}/{}: loss {:.3}, {speed:.0} images/s",
            report.epoch + 1,
            self.epochs,
            report.loss
        ));
    }

    fn on_epoch(&mut self, report: &EpochReport) -> resnext_train::Result<()> {
        let row = Row::new(report, self.start.elapsed().as_secs_f64());
        let line = format!(
            "epoch {:>3}/{}: loss {:.4}, top-1 {:.2} %; test loss {:.4}, top-1 {:.2} %, top-5 {:.2} %; {:.0} s",
            row.epoch,
            self.epochs,
            row.train_loss,
            100.0 * row.train_top1,
            row.test_loss,
            100.0 * row.test_top1,
            100.0 * row.test_top5,
            row.seconds
        );
        self.bar.suspend(|| println!("{line}"));
        self.images = 0;
        self.folder.add(row).map_err(|error| resnext_train::Error::Config(format!("{error:#}")))
    }

    fn save(&mut self, checkpoint: &Checkpoint, best: bool) -> resnext_train::Result<()> {
        self.folder.save(checkpoint, best)
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
