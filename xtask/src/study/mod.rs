//! `cargo xtask study`: the paper's claims, run and plotted.

mod args;
mod budget;
mod error_chart;
mod kind;
mod networks;
mod plan;
mod progress;
mod report;
mod results;
mod run;
mod speed;
mod statistics;
mod verdict;

use crate::dataset_arg::DatasetName;
use crate::machine;
use crate::open_data::OpenData;
use crate::plural::counted;
use crate::recipe::{Overrides, Recipe};
use crate::run_folder::free;
use crate::text_table::Table;
use crate::train::stop_on_ctrl_c;
use anyhow::{Context, Result, bail, ensure};
pub use args::Args;
use args::{Command, Options, Place};
use budget::{Cost, Length};
use candle_core::Device;
use kind::Kind;
use networks::PlannedNetwork;
use plan::{PLAN, Plan};
use progress::{StudyProgress, Workload};
use results::{Results, RunResult, State};
use run::Ended;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Seeds of a study without a budget.
const SEEDS: usize = 3;

pub fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Cardinality { cardinalities, options } => begin(Kind::Cardinality, &cardinalities, &options),
        Command::Capacity { cardinality, options } => begin(Kind::Capacity, &[cardinality], &options),
        Command::Shortcuts { cardinality, options } => begin(Kind::Shortcuts, &[cardinality], &options),
        Command::Resume { folder, data, place } => {
            let mut plan = Plan::read(&folder)?;
            plan.recipe.data = data.or(plan.recipe.data);
            let device = place.device.open()?;
            train(&folder, &plan, &place, &device)
        }
        Command::Report { folder } => {
            println!("{}", report::write(&folder)?);
            println!("{} has {}", folder.display(), report::PAGE);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Makes the plan of a new study, and trains its runs.
fn begin(kind: Kind, cardinalities: &[usize], options: &Options) -> Result<ExitCode> {
    let device = options.place.device.open()?;
    let mut recipe = recipe(options)?;
    let data = OpenData::new(&recipe, None)?;
    if let Some(photos) = &mut recipe.photos {
        photos.classes = data.class_names().to_vec();
    }
    let usual = match (recipe.dataset, device.is_cpu()) {
        (DatasetName::Folder, _) => "resnet50",
        (_, true) => "resnet20_1x17d",
        (_, false) => "resnet29_1x64d",
    };
    recipe.model = options.network.clone().unwrap_or(usual.into());
    recipe.network = None;
    let base = recipe.network(data.class_names().len())?;
    let networks = networks::of(kind, &base, cardinalities, data.size())?;
    let mut plan = Plan {
        kind,
        base: recipe.model.clone(),
        image: data.size(),
        seeds: Vec::new(),
        notes: Vec::new(),
        recipe,
        networks,
    };
    let Length { epochs, seeds } = length(&mut plan, options, &device)?;
    ensure!(epochs > 0 && seeds > 0, "--epochs and --seeds must be at least 1");
    plan.recipe.epochs = epochs;
    plan.seeds = (0..seeds as u64).collect();
    print!("{}", introduction(&plan, &device));
    if options.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let folder = create(options.out.as_deref(), &plan)?;
    plan.write(&folder)?;
    println!("folder: {}", folder.display());
    train(&folder, &plan, &options.place, &device)
}

/// The settings that all runs share; the network is added later.
fn recipe(options: &Options) -> Result<Recipe> {
    let mut recipe = match (&options.recipe, options.dataset, &options.data) {
        (Some(name), ..) => Recipe::open(name)?,
        (None, Some(dataset), _) => Recipe::of(dataset)?,
        (None, None, Some(path)) => Recipe::of(DatasetName::of_path(path)?)?,
        (None, None, None) => Recipe::of(DatasetName::Synthetic)?,
    };
    let overrides = Overrides {
        dataset: options.dataset,
        data: options.data.clone(),
        train_images: options.train_images,
        ..Overrides::default()
    };
    recipe.apply(&overrides)?;
    ensure!(
        recipe.weights.is_none(),
        "a study compares networks from random weights, but its recipe starts from {}",
        recipe.weights.unwrap_or_default()
    );
    // All runs go through the same schedule to its end.
    recipe.early_stopping = 0;
    Ok(recipe)
}

/// How many epochs and seeds there are to be. What was measured for it becomes a note of the plan.
fn length(plan: &mut Plan, options: &Options, device: &Device) -> Result<Length> {
    let recipe_epochs = plan.recipe.epochs;
    let Some(time) = options.budget else {
        let epochs = options.epochs.unwrap_or(recipe_epochs);
        return Ok(Length { epochs, seeds: options.seeds.unwrap_or(SEEDS) });
    };
    let mut cost = Cost { epoch: 0.0, once: 0.0 };
    for run in plan_of_one_seed(plan).runs(Path::new("")) {
        println!("measuring {} …", plan.networks[run.network].label);
        let speed = speed::measure(&run.recipe, OpenData::new(&run.recipe, None)?, device)?;
        cost.epoch += speed.training + speed.evaluation;
        // The report at the end of a run evaluates once more.
        cost.once += speed.evaluation;
    }
    let budget = time.as_secs_f64();
    let length = budget::fit(budget, cost, options.epochs, options.seeds, recipe_epochs)
        .map_err(|error| anyhow::anyhow!("--budget: {error}"))?;
    plan.notes.push(format!(
        "The length of the study was chosen for {}: by {} steps of each network on {}, an epoch of all {} takes {}, and \
         {} with {} about {}.",
        budget::words(budget),
        speed::TRAINING_BATCHES,
        machine::description(device),
        counted(plan.networks.len(), "network"),
        budget::words(cost.epoch),
        counted(length.epochs, "epoch"),
        counted(length.seeds, "seed"),
        budget::words(cost.total(length.epochs, length.seeds))
    ));
    Ok(length)
}

fn plan_of_one_seed(plan: &Plan) -> Plan {
    Plan { seeds: vec![0], ..plan.clone() }
}

/// Makes the folder of a new study: `wanted`, which must not hold one yet, or else a new one under `studies/`.
fn create(wanted: Option<&Path>, plan: &Plan) -> Result<PathBuf> {
    let Some(folder) = wanted else {
        return free(&format!("studies/{}-{}", plan.kind, plan.recipe.dataset));
    };
    if folder.join(PLAN).exists() {
        bail!(
            "{0} already holds a study: go on with `cargo xtask study resume {0}`, or choose another --out",
            folder.display()
        );
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    Ok(folder.to_path_buf())
}

/// The introduction to a study.
fn introduction(plan: &Plan, device: &Device) -> String {
    let mut table = Table::new(&["network", "parameters", "multiply-adds"]);
    for PlannedNetwork { label, config, .. } in &plan.networks {
        if let Some(cost) = verdict::complexity(config, plan.image) {
            let multiply_adds = format!("{:.2} M", cost.multiply_adds / 1e6);
            table.row(vec![label.clone(), format!("{:.0}", cost.parameters), multiply_adds]);
        }
    }
    let images =
        plan.recipe.train_images.map_or(String::new(), |images| format!(", {images} training images"));
    format!(
        "{}\n\n{}\n{}: {} of {} each, on {}{images}\ndevice: {}\n{}",
        plan.kind.title(),
        table.to_text(),
        counted(plan.networks.len() * plan.seeds.len(), "run"),
        counted(plan.seeds.len(), "seed"),
        counted(plan.recipe.epochs, "epoch"),
        plan.recipe.dataset,
        machine::description(device),
        plan.notes.iter().map(|note| format!("{note}\n")).collect::<String>()
    )
}

/// Trains what is left of a study, one run after the other, and writes the report after each.
fn train(folder: &Path, plan: &Plan, place: &Place, device: &Device) -> Result<ExitCode> {
    let results = Results::read(folder)?;
    let (own, all) = place.part.unwrap_or((1, 1));
    let mine: Vec<&RunResult> =
        results.runs.iter().filter(|result| plan.part(&result.run, all) == own - 1).collect();
    for result in &mine {
        if let State::Unusable(reason) = &result.state {
            bail!(
                "{}: {reason}; move that folder away, and the run is trained anew",
                result.run.folder.display()
            );
        }
    }
    let images_per_run = plan.recipe.epochs * OpenData::new(&plan.recipe, None)?.train_len();
    let cost = |result: &RunResult| {
        let network = &plan.networks[result.run.network].config;
        verdict::complexity(network, plan.image).map_or(1.0, |cost| cost.multiply_adds)
    };
    let runs = mine.iter().map(|result| (cost(result), result.is_complete));
    let mut progress = StudyProgress::new(Workload::new(images_per_run, runs));
    let stop = stop_on_ctrl_c(true)?;
    for (number, result) in mine.iter().enumerate() {
        if result.is_complete {
            continue;
        }
        progress.start_run(number);
        let mut run = result.run.clone();
        run.recipe.data.clone_from(&plan.recipe.data);
        let label = &plan.networks[run.network].label;
        let name = format!("run {} of {}, {label}, seed {}", number + 1, mine.len(), run.seed);
        let ended = run::train(&run, name.clone(), &mut progress, Arc::clone(&stop), device)
            .with_context(|| format!("{name} ({})", run.folder.display()))?;
        if ended == Ended::Stopped {
            progress.finish();
            println!("stopped and saved; go on with: cargo xtask study resume {}", folder.display());
            return Ok(ExitCode::from(130));
        }
        progress.end_run();
        let now = Results::read(folder)?;
        let found = now.runs.iter().find(|found| found.run.folder == run.folder);
        let outcome = match found.map(|found| (&found.state, found.test_error())) {
            Some((State::Finished, Some(error))) => format!("test error {error:.2} %"),
            Some((State::Failed(reason), _)) => format!("failed: {reason}"),
            _ => "no result".into(),
        };
        let left = progress.left().map_or(String::new(), |left| format!("; {left} left in all"));
        progress.print(&format!("{name}: {outcome}{left}"));
        report::write(folder)?;
    }
    progress.finish();
    println!("{}", report::write(folder)?);
    println!("{} has {}", folder.display(), report::PAGE);
    Ok(ExitCode::SUCCESS)
}
