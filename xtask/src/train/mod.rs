//! `cargo xtask train`: trains a network by a recipe, or continues a run.

mod args;
mod progress;

use crate::checkpoint::{in_form, parsed};
use crate::classifier::describe;
use crate::dataset_arg::DatasetName;
use crate::loaders::Loaders;
use crate::plural::counted;
use crate::recipe::Recipe;
use crate::run_folder::{LAST, RunFolder, file_in};
use anyhow::{Result, bail};
pub use args::Args;
use candle_core::Device;
use progress::Progress;
use resnext_model::{Description, Summary};
use resnext_train::{Checkpoint, Data, Outcome, Trainer};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub fn run(args: Args) -> Result<ExitCode> {
    let device = args.device.open()?;
    let (mut recipe, resumed) = start(&args, &device)?;
    recipe.apply(&args.overrides);
    let splits = recipe.dataset.open(recipe.data.as_deref())?;
    let model = recipe.network(splits.train.class_names().len())?;
    let (height, width) = splits.train.size();
    let summary = Summary::new(&model, height, width)?;
    let description = describe(&splits, &model);
    let loaders = Loaders::new(splits, recipe.batch_size, recipe.augment, recipe.seed, &device)?;
    let mut trainer = Trainer::new(&model, recipe.training(), serde_json::to_value(&recipe)?, &device)?;
    trainer.set_metadata([(Description::KEY.to_string(), description.to_json())].into());
    // Nothing is written before all inputs are known to be good.
    let folder = match resumed {
        Some((checkpoint, file)) => {
            trainer.restore(&checkpoint, &file)?;
            let folder = file.parent().map(PathBuf::from).unwrap_or_default();
            RunFolder::resume(folder, trainer.progress().epoch)?
        }
        None => RunFolder::create(args.out, &recipe)?,
    };
    let path = folder.path.display().to_string();
    if trainer.progress().epoch >= recipe.epochs {
        bail!("{path} has completed its {} epochs; set more with --epochs", recipe.epochs);
    }
    print!("{}", introduction(&recipe, &summary, &loaders, &device, &path));

    let (batches, done) = (loaders.batches_per_epoch(), trainer.progress());
    let done = (done.epoch, done.batch);
    let mut progress = Progress::new(folder, recipe.epochs, batches, done, stop_on_ctrl_c()?);
    let outcome = trainer.run(&loaders, &mut progress)?;
    progress.finish();
    match outcome {
        Outcome::Finished => {
            println!("best test top-1: {:.2} %", 100.0 * trainer.progress().best_top1);
            println!("{path} has metrics.csv, curves.svg, last.safetensors and best.safetensors");
            println!("next: cargo xtask eval {path}");
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Stopped => {
            println!("stopped and saved; continue with: cargo xtask train --resume {path}");
            Ok(ExitCode::from(130))
        }
    }
}

/// The recipe of the run before options override it, and the checkpoint of a run that is resumed, with its
/// file.
fn start(args: &Args, device: &Device) -> Result<(Recipe, Option<(Checkpoint, PathBuf)>)> {
    if let Some(path) = &args.resume {
        let file = file_in(path, LAST);
        let checkpoint = Checkpoint::load(&file, device)?;
        // A run may continue in another form.
        let form = args.overrides.form.unwrap_or(checkpoint.model.form);
        let checkpoint = in_form(checkpoint, form, &file)?;
        let recipe = parsed(checkpoint.recipe.clone(), &file)?;
        return Ok((recipe, Some((checkpoint, file))));
    }
    let recipe = match &args.recipe {
        Some(path) => Recipe::read(path)?,
        None => Recipe::of(args.overrides.dataset.unwrap_or(DatasetName::Synthetic))?,
    };
    Ok((recipe, None))
}

/// What is about to happen, for someone who has never seen a run.
fn introduction(
    recipe: &Recipe,
    summary: &Summary,
    loaders: &Loaders,
    device: &Device,
    folder: &str,
) -> String {
    let (train, test) = (loaders.train_set(), loaders.test_set());
    let (height, width) = train.size();
    let device = match device {
        Device::Cpu => {
            let threads = counted(rayon::current_num_threads(), "thread");
            format!("CPU, {threads}, {}", resnext_ops::Isa::current().name())
        }
        Device::Cuda(_) => "CUDA".into(),
        Device::Metal(_) => "Metal".into(),
    };
    let augmented = if recipe.augment { ", augmented" } else { "" };
    let lines = [
        ("network", format!("{}, block form ({})", recipe.model, recipe.form)),
        (
            "size",
            format!(
                "{:.2} M parameters, {:.1} M multiply-adds per image",
                summary.parameters() as f64 / 1e6,
                summary.multiply_adds() as f64 / 1e6
            ),
        ),
        (
            "data",
            format!(
                "{}: {} training and {} test images of {height}×{width} in {} classes{augmented}",
                recipe.dataset,
                train.len(),
                test.len(),
                train.class_names().len()
            ),
        ),
        (
            "recipe",
            format!(
                "epochs: {}, batch size: {}, peak learning rate: {}",
                recipe.epochs, recipe.batch_size, recipe.lr
            ),
        ),
        ("device", device),
        ("folder", folder.to_string()),
    ];
    let line = |(name, value): (&str, String)| format!("{name:<9}{value}\n");
    lines.into_iter().map(line).collect::<String>() + "\n"
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program at once.
fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let handler = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        // The last checkpoint stays complete, because files are replaced as a whole.
        if handler.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
    })?;
    Ok(stop)
}
