//! `cargo xtask train`: trains a network by a recipe, or continues a run.

mod args;
pub mod final_report;
mod follower;
mod initial;
mod process_record;
pub mod progress;
mod resume;
mod shared_unreadable;

use crate::checkpoint::{form_of, in_form, parsed};
use crate::dataset_arg::DatasetName;
use crate::launch::Launch;
use crate::loaders::Loaders;
use crate::machine;
use crate::open_data::OpenData;
use crate::photo_defaults;
use crate::photo_sets::PhotoSets;
use crate::plural::counted;
use crate::prepared_run::PreparedRun;
use crate::recipe::{Overrides, Recipe};
use crate::run_folder::{LAST, RECIPE, REPORT, RunFolder, file_in};
use crate::run_lock::RunLock;
use crate::run_record::RunRecord;
use crate::weights_source::pretrained;
use anyhow::{Result, bail, ensure};
pub use args::Args;
use candle_core::Device;
use follower::Follower;
use process_record::ProcessRecord;
use progress::Progress;
use resnext_model::{Baseline, Pretrained, Summary};
use resnext_train::distributed::DistributedConfig;
use resnext_train::{Checkpoint, Data, Outcome};
use shared_unreadable::SharedUnreadable;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub fn run(args: Args) -> Result<ExitCode> {
    #[cfg(feature = "mpi")]
    let (launch, config) = (Launch::start(args.distributed.timeout())?, args.distributed.config());
    #[cfg(feature = "mpi")]
    args.distributed.check(launch.launched)?;
    #[cfg(not(feature = "mpi"))]
    let (launch, config) = (Launch::start()?, DistributedConfig::default());
    launch.end(run_in(args, &launch, &config))
}

/// A run as one of the processes of `launch`. The first one prints and writes for all.
fn run_in(args: Args, launch: &Launch, distributed: &DistributedConfig) -> Result<ExitCode> {
    let device = args.device.open()?;
    let Start { mut recipe, photos, weights, folder, checkpoint, lock } =
        start(&args, &device, launch.leads())?;
    let saved = recipe.clone();
    recipe.apply(&args.overrides)?;
    let processes = ProcessRecord::new(launch.processes.size(), distributed);
    let changes = match &checkpoint {
        Some((checkpoint, _)) => {
            let mut changes = resume::changes(&saved, &recipe, &checkpoint.progress)?;
            let record = ProcessRecord::read(checkpoint.metadata.get(ProcessRecord::KEY));
            changes.extend(record.changes(&processes));
            changes
        }
        None => Vec::new(),
    };
    let initial = match &checkpoint {
        // The checkpoint's weights have come from there.
        Some(_) => None,
        None => initial::open(&mut recipe, args.overrides.model.is_some(), weights)?,
    };
    ensure!(
        recipe.photos.is_some() || args.overrides.photos.is_empty(),
        "--size, --policy, --erase and the other options for photos are for photos: data set {} has none",
        recipe.dataset
    );
    let setting = |error: anyhow::Error| of_recipe(error, args.recipe.as_deref());
    if let Some(photos) = &recipe.photos {
        photos.evaluation().and_then(|_| photos.training(recipe.augment)).map_err(setting)?;
    }
    let from = args.resume.as_ref().map(|run| run.display().to_string()).or(args.recipe.clone());
    args.overrides.check_data_of(&recipe, from.as_deref())?;
    let data = OpenData::new(&recipe, photos)?;
    data.check_split(&args.overrides.photos)?;
    if let Some(photos) = &mut recipe.photos {
        photos.classes = data.class_names().to_vec();
    }
    let PreparedRun { model, summary, normalization, loaders, mut trainer } =
        PreparedRun::new(&recipe, data, &device).map_err(setting)?;
    if let Some((checkpoint, file)) = &checkpoint {
        trainer.restore(checkpoint, file)?;
    }
    let names = loaders.class_names();
    let initial =
        initial.map(|found| initial::load(&mut trainer, &found, (&model, names), &device)).transpose()?;
    trainer.distribute(Arc::clone(&launch.processes), distributed)?;
    if let Some(entry) = processes.entry() {
        trainer.add_metadata(ProcessRecord::KEY, entry);
    }
    trainer.check(&loaders)?;
    let done = trainer.progress().clone();
    // A run that was killed while it wrote its report has only that left to do.
    let finished = folder.as_ref().filter(|folder| folder.join(REPORT).exists());
    if let Some(folder) = finished.filter(|_| trainer.is_over()) {
        bail!(
            "{} ended after {} without a better test top-1; go on with a larger --early-stopping, or 0",
            folder.display(),
            counted(done.epoch - done.best_epoch, "epoch")
        );
    }
    if let Some(folder) = finished.filter(|_| done.epoch >= recipe.epochs) {
        let epochs = counted(done.epoch, "epoch");
        bail!("{} has completed {epochs}; set more with --epochs", folder.display());
    }
    launch.all_are_ready()?;
    let (rank, size) = (launch.processes.rank(), launch.processes.size());
    let own = loaders.part(rank, size);
    trainer.check_processes(&own)?;
    let by_nccl = trainer.connect()?;
    // Several processes say so when they have agreed: a launcher sends SIGTERM to all after one's error, too.
    let stop = stop_on_ctrl_c(size == 1)?;
    let unreadable = SharedUnreadable::new(&launch.processes, &own);
    if !launch.leads() {
        return Ok(match trainer.run(&own, &mut Follower { stop, unreadable })? {
            Outcome::Stopped => ExitCode::from(130),
            Outcome::Finished | Outcome::EarlyStopped => ExitCode::SUCCESS,
        });
    }
    // Nothing is written before all inputs are known to be good.
    let folder = match (folder, lock) {
        (Some(folder), Some(lock)) => RunFolder::resume(folder, lock, done.epoch)?,
        _ => RunFolder::create(args.out, &recipe)?,
    };
    if !changes.is_empty() {
        // The checkpoint has the recipe, too: from now on both say what holds.
        folder.save(&trainer.checkpoint(), false)?;
    }
    folder.write_recipe(&recipe)?;
    let path = folder.path.display().to_string();
    print!("{}", introduction(&recipe, &summary, &loaders, &device, &path));
    if size > 1 {
        println!("{processes}");
        println!("{}", summing(by_nccl, &device));
    }
    if let Some(initial) = initial {
        println!("initial weights: {initial}");
    }
    if checkpoint.is_some() {
        println!("resuming after {}, {}", counted(done.epoch, "epoch"), counted(done.images, "image"));
    }
    changes.iter().for_each(|change| println!("from here on: {change}"));

    let images = loaders.images_per_epoch();
    let done = (done.epoch, done.images);
    let record = RunRecord::new(folder, done.0, args.save_every)?;
    let mut progress = Progress::new(record, recipe.epochs, images, done, stop);
    if size > 1 {
        progress = progress.of_all(unreadable);
    }
    let outcome = trainer.run(&own, &mut progress)?;
    progress.finish();
    match outcome {
        Outcome::Finished | Outcome::EarlyStopped => {
            if outcome == Outcome::EarlyStopped {
                println!(
                    "stopped early: test top-1 was not better for {}",
                    counted(recipe.early_stopping, "epoch")
                );
            }
            println!("best test top-1: {:.2} %", 100.0 * trainer.progress().best_top1);
            let mut facts = facts(&recipe, &summary, &loaders, &device);
            if size > 1 {
                facts.push(("processes", processes.to_string()));
            }
            if let Some(share) = progress.share_waiting() {
                let waiting =
                    format!("{:.2} % of training's time was spent waiting for images", 100.0 * share);
                println!("{waiting}");
                facts.push(("loading", waiting));
            }
            if let unreadable @ 1.. = loaders.unreadable().len() {
                println!("left out: {} that cannot be read", counted(unreadable, "photo"));
            }
            final_report::write(progress.folder(), &recipe, &loaders, &normalization, &device, &facts)?;
            println!(
                "{path} has report.html, metrics.csv, curves.svg, last.safetensors and best.safetensors"
            );
            println!("next: cargo xtask eval {path}");
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Stopped => {
            println!("stopped and saved; continue with: cargo xtask train --resume {path}");
            Ok(ExitCode::from(130))
        }
    }
}

/// An error about a setting, with the recipe's file, if there is one: an option may have changed the setting.
fn of_recipe(error: anyhow::Error, recipe: Option<&str>) -> anyhow::Error {
    match recipe {
        Some(name) => error.context(format!("settings of {name} and the command line")),
        None => error,
    }
}

/// Where a run starts.
struct Start {
    /// The recipe before options override it.
    recipe: Recipe,
    /// The photos of its data set and the weights that it starts from, if it was chosen by looking at them.
    photos: Option<PhotoSets>,
    weights: Option<Pretrained>,
    /// The folder of a run that is resumed, with its lock.
    folder: Option<PathBuf>,
    lock: Option<RunLock>,
    /// The checkpoint to continue from, and its file; `None` for a run that was killed before its first one.
    checkpoint: Option<(Checkpoint, PathBuf)>,
}

impl Start {
    /// A new run by a recipe.
    fn new(recipe: Recipe) -> Self {
        Start { recipe, photos: None, weights: None, folder: None, lock: None, checkpoint: None }
    }
}

/// Where gradients of several processes are added up, as a line.
fn summing(by_nccl: bool, device: &Device) -> &'static str {
    match (by_nccl, device.is_cpu(), cfg!(feature = "nccl")) {
        (true, ..) => "NCCL adds gradients up on the GPUs",
        (false, true, _) => "MPI moves gradients, which are added up in the order of ranks",
        (false, false, true) => {
            "gradients are added up on the hosts, not by NCCL: not each process has an NVIDIA GPU of its own"
        }
        (false, false, false) => {
            "gradients are added up on the hosts; a build with the feature nccl does it on the GPUs"
        }
    }
}

/// `leads`: whether this process writes the run's folder, and prints.
fn start(args: &Args, device: &Device, leads: bool) -> Result<Start> {
    let Some(path) = &args.resume else {
        return match &args.recipe {
            Some(name) => Ok(Start::new(for_a_new_run(Recipe::open(name)?))),
            None => chosen(&args.overrides, !device.is_cpu(), leads),
        };
    };
    // A checkpoint inside of the folder may be named as well.
    let folder = match path.is_file() {
        true => path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        false => path.as_path(),
    };
    let (file, first) = (file_in(path, LAST), folder.join(RECIPE));
    if !file.exists() && !first.exists() {
        bail!(
            "cannot resume {}: it has neither {LAST} nor {RECIPE}, so it is not a run folder",
            path.display()
        );
    }
    let lock = if leads { Some(RunLock::take(folder)?) } else { None };
    let folder = Some(folder.to_path_buf());
    if !file.exists() {
        // Killed before its first checkpoint: the recipe has all that the run's first step depends on.
        return Ok(Start { folder, lock, ..Start::new(Recipe::read(&first)?) });
    }
    let checkpoint = Checkpoint::load(&file, device)?;
    // A run may continue in another form.
    let form = args.overrides.form.unwrap_or(form_of(&checkpoint));
    let saved = parsed(checkpoint.recipe.clone(), &file)?;
    let checkpoint = in_form(checkpoint, form, &file)?;
    Ok(Start { folder, lock, checkpoint: Some((checkpoint, file)), ..Start::new(saved) })
}

/// A recipe without the names of the classes that an earlier run was trained on.
fn for_a_new_run(mut recipe: Recipe) -> Recipe {
    if let Some(photos) = &mut recipe.photos {
        photos.classes.clear();
    }
    recipe
}

/// A new run on the data set that the options name; of photos, by the recipe that fits those in the folder.
fn chosen(options: &Overrides, gpu: bool, leads: bool) -> Result<Start> {
    let path = options.data.as_deref();
    let dataset = match (options.dataset, path) {
        (Some(dataset), _) => dataset,
        (None, Some(path)) => DatasetName::of_path(path)?,
        (None, None) => DatasetName::Synthetic,
    };
    match (dataset, path) {
        (DatasetName::Folder, Some(folder)) => {
            let weights = options.weights.as_deref().map(pretrained).transpose()?;
            let (recipe, notes, photos) = photo_defaults::choose(folder, options, weights.as_ref(), gpu)?;
            if leads {
                notes.iter().for_each(|note| println!("{note}"));
                println!();
            }
            Ok(Start { photos: Some(photos), weights, ..Start::new(recipe) })
        }
        (dataset, _) => Recipe::of(dataset).map(Start::new),
    }
}

/// The introduction to a run, for someone who has never seen one.
fn introduction(
    recipe: &Recipe,
    summary: &Summary,
    loaders: &Loaders,
    device: &Device,
    folder: &str,
) -> String {
    let mut lines = facts(recipe, summary, loaders, device);
    lines.push(("folder", folder.to_string()));
    let line = |(name, value): (&str, String)| format!("{name:<9}{value}\n");
    lines.into_iter().map(line).collect::<String>() + "\n"
}

/// The network, the data, the recipe and the machine, in words.
pub fn facts(
    recipe: &Recipe,
    summary: &Summary,
    loaders: &Loaders,
    device: &Device,
) -> Vec<(&'static str, String)> {
    let (height, width) = loaders.size();
    let network = match Baseline::by_name(&recipe.model) {
        Some(baseline) => baseline.name().to_string(),
        None => format!("{}, block form ({})", recipe.model, recipe.form),
    };
    let augmented = if recipe.augment { ", augmented" } else { "" };
    vec![
        ("network", network),
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
                "{}: {} training and {} test images of {height}×{width} in {} classes{augmented}{}",
                recipe.dataset,
                loaders.train_len(),
                loaders.test_len(),
                loaders.class_names().len(),
                recipe.dataset.lacking(
                    recipe.train_images.is_none(),
                    loaders.train_len(),
                    loaders.test_len()
                )
            ),
        ),
        (
            "recipe",
            format!(
                "epochs: {}, batch size: {}, peak learning rate: {}",
                recipe.epochs, recipe.batch_size, recipe.lr
            ),
        ),
        ("device", machine::description(device)),
    ]
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program at once. `says`: whether the program says so.
pub fn stop_on_ctrl_c(says: bool) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let handler = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        // The last checkpoint stays complete, because files are replaced as a whole.
        if handler.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        if says {
            eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
        }
    })?;
    Ok(stop)
}
