//! `cargo xtask eval`

use crate::convert::in_form;
use crate::data::{DatasetName, Loaders};
use crate::device::{self, DeviceName};
use crate::dtype::Dtype;
use crate::recipe::{Overrides, Recipe};
use crate::run_folder::{BEST, file_in};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use indicatif::ProgressBar;
use resnext_model::{Form, ResNext, Variables};
use resnext_train::checkpoint::{assign, load_weights, replace_file};
use resnext_train::{Checkpoint, Data, Error, evaluate};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// A run's folder (its best checkpoint), a checkpoint, or a safetensors file of weights
    run_or_weights: PathBuf,
    /// Network, where the file doesn't say
    #[arg(long)]
    model: Option<String>,
    /// Form of the blocks, a, b or c: a checkpoint is converted to it, a plain weights file must have it
    #[arg(long)]
    form: Option<Form>,
    /// Data set, where the file doesn't say or another is meant
    #[arg(long)]
    dataset: Option<DatasetName>,
    /// Archive or folder the data set is read from
    #[arg(long)]
    data: Option<PathBuf>,
    /// Images a batch
    #[arg(long)]
    batch_size: Option<usize>,
    /// CSV file to write with the label and the prediction of each test image
    #[arg(long)]
    predictions: Option<PathBuf>,
    /// Compute with the inference form of the network, in this type; the network as it was trained if not given
    #[arg(long)]
    dtype: Option<Dtype>,
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: DeviceName,
}

pub fn run(args: Args) -> Result<()> {
    let device = args.device.open()?;
    let file = file_in(&args.run_or_weights, BEST);
    let (tensors, mut recipe, config) = match Checkpoint::load(&file, &device) {
        Ok(checkpoint) => {
            let form = args.form.unwrap_or(checkpoint.model.form);
            let checkpoint = in_form(checkpoint, form, &file)?;
            let recipe: Recipe = serde_json::from_value(checkpoint.recipe.clone())
                .with_context(|| format!("the recipe in {}", file.display()))?;
            (checkpoint.weights().clone(), recipe, Some(checkpoint.model))
        }
        Err(Error::NotACheckpoint { .. }) => {
            let dataset = args.dataset.context("a plain weights file needs --dataset and --model")?;
            args.model.as_ref().context("a plain weights file needs --model")?;
            (load_weights(&file, &device)?, Recipe::of(dataset)?, None)
        }
        Err(error) => return Err(error.into()),
    };
    recipe.apply(&Overrides {
        model: args.model,
        form: args.form,
        dataset: args.dataset,
        data: args.data,
        batch_size: args.batch_size,
        ..Default::default()
    });
    let splits = recipe.dataset.open(recipe.data.as_deref())?;
    let asked = recipe.network(splits.test.class_names().len())?;
    let config =
        config.map_or(asked.clone(), |saved| resnext_model::Config { classes: saved.classes, ..asked });
    let variables = Variables::new(0, DType::F32, &device);
    let network = ResNext::new(&config, variables.builder())?;
    assign(&variables.all(), &tensors, &file)?;

    let loaders = Loaders::new(splits, recipe.batch_size, false, 0, &device)?;
    let bar = ProgressBar::new(loaders.test_set().len() as u64);
    let mut predictions = Vec::new();
    ensure!(args.dtype.is_none() || device.is_cpu(), "--dtype is for the CPU");
    let fused = args.dtype.map(|dtype| network.fuse_to(dtype.into())).transpose()?;
    let forward = |images: &Tensor| match &fused {
        Some(fused) => fused.forward(images),
        None => network.forward(images, false),
    };
    let metrics = evaluate(forward, loaders.test(), |seen, logits, labels| {
        bar.set_position(seen as u64);
        let predicted = logits.argmax(1)?.to_vec1::<u32>()?;
        predictions.extend(labels.to_vec1::<u32>()?.into_iter().zip(predicted));
        Ok(())
    })?;
    bar.finish_and_clear();
    if let Some(path) = &args.predictions {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["image", "label", "prediction"])?;
        for (i, (label, predicted)) in predictions.into_iter().enumerate() {
            writer.serialize((i, label, predicted))?;
        }
        replace_file(path, &writer.into_inner()?)?;
    }

    println!(
        "{} on {} test images of {:?}, weights from {}",
        recipe.model,
        metrics.count,
        recipe.dataset,
        file.display()
    );
    println!(
        "top-1 {:.2} %, top-5 {:.2} %, loss {:.4}",
        100.0 * metrics.top1(),
        100.0 * metrics.top5(),
        metrics.loss()
    );
    println!("{:<20} {:>6} {:>6} {:>8}", "class", "images", "right", "top-1");
    for (name, (right, images)) in loaders.test_set().class_names().iter().zip(&metrics.per_class) {
        let share = 100.0 * *right as f64 / (*images).max(1) as f64;
        println!("{name:<20} {images:>6} {right:>6} {share:>6.2} %");
    }
    Ok(())
}
