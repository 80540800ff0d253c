//! `cargo xtask eval`

use crate::data::{DatasetName, Loaders};
use crate::device::{self, DeviceName};
use crate::dtype::{self, Dtype};
use crate::recipe::{Overrides, Recipe};
use crate::source;
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use indicatif::ProgressBar;
use resnext_model::{Config, Form, ResNext};
use resnext_train::checkpoint::replace_file;
use resnext_train::{Data, Metrics, evaluate};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Run's folder (its best checkpoint), weights file, or repository of the hub
    weights: String,
    /// Network that the weights must be of; the one their shapes tell if not given
    #[arg(long)]
    model: Option<String>,
    /// Form of the blocks to compute in, a, b or c: weights are converted to it
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
    #[arg(long, help = dtype::RANGES_HELP)]
    ranges: Option<PathBuf>,
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: DeviceName,
}

pub fn run(args: Args) -> Result<()> {
    let device = args.device.open()?;
    let pretrained = source::pretrained(&args.weights)?;
    let weights = &pretrained.weights;
    let saved = source::recipe(weights)?;
    let name = args.model.clone().or(saved.as_ref().map(|recipe| recipe.model.clone()));
    let mut recipe = match saved {
        Some(recipe) => recipe,
        None => Recipe::of(args.dataset.context("weights that are no checkpoint's need --dataset")?)?,
    };
    let Args { dataset, data, batch_size, .. } = args;
    recipe.apply(&Overrides { dataset, data, batch_size, ..Default::default() });
    let splits = recipe.dataset.open(recipe.data.as_deref())?;
    let found = &pretrained.config;
    let expected = match &args.model {
        Some(name) => Config { form: found.form, ..Config::by_name(name)? },
        None => found.clone(),
    };
    let expected = Config { classes: splits.test.class_names().len(), ..expected };
    let form = args.form.unwrap_or(expected.form);
    let tensors = weights.in_form(&expected, form, &device)?;
    let builder = VarBuilder::from_tensors(tensors.into_iter().collect(), DType::F32, &device);
    let network = ResNext::new(&Config { form, ..expected }, builder)?;

    let loaders = Loaders::new(splits, recipe.batch_size, false, 0, &device)?;
    ensure!(args.dtype.is_none() || device.is_cpu(), "--dtype is for the CPU");
    let ranges = args.dtype.unwrap_or(Dtype::F32).ranges(args.ranges.as_deref())?;
    let fused = match (args.dtype, &ranges) {
        (_, Some(ranges)) => Some(network.fuse_quantized(ranges)?),
        (dtype, None) => dtype.map(|dtype| network.fuse_to(dtype.into())).transpose()?,
    };
    let (metrics, predictions) = judge(&loaders, |images| match &fused {
        Some(fused) => fused.forward(images),
        None => network.forward(images, false),
    })?;
    if let Some(path) = &args.predictions {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["image", "label", "prediction"])?;
        for (i, (label, predicted)) in predictions.iter().enumerate() {
            writer.serialize((i, label, predicted))?;
        }
        replace_file(path, &writer.into_inner()?)?;
    }

    println!(
        "{} on {} test images of {:?}, weights from {}",
        name.as_deref().unwrap_or("a network"),
        metrics.count,
        recipe.dataset,
        weights.path().display()
    );
    println!(
        "top-1 {:.2} %, top-5 {:.2} %, loss {:.4}",
        100.0 * metrics.top1(),
        100.0 * metrics.top5(),
        metrics.loss()
    );
    if let Some(dtype) = args.dtype.filter(|&dtype| dtype != Dtype::F32) {
        let single = network.fuse()?;
        let (single, others) = judge(&loaders, |images| single.forward(images))?;
        let same = predictions.iter().zip(&others).filter(|(one, other)| one == other).count();
        println!(
            "{} loses {:.2} points of f32's top-1, {:.2} %, and tells the same class of {same} images, {:.2} %",
            dtype.name(),
            100.0 * (single.top1() - metrics.top1()),
            100.0 * single.top1(),
            100.0 * same as f64 / others.len().max(1) as f64
        );
    }
    println!("{:<20} {:>6} {:>6} {:>8}", "class", "images", "right", "top-1");
    for (name, (right, images)) in loaders.test_set().class_names().iter().zip(&metrics.per_class) {
        let share = 100.0 * *right as f64 / (*images).max(1) as f64;
        println!("{name:<20} {images:>6} {right:>6} {share:>6.2} %");
    }
    Ok(())
}

/// What a network is worth on the test images, and each one's label and prediction.
fn judge(
    loaders: &Loaders,
    forward: impl Fn(&Tensor) -> resnext_model::Result<Tensor>,
) -> Result<(Metrics, Vec<(u32, u32)>)> {
    let bar = ProgressBar::new(loaders.test_set().len() as u64);
    let mut predictions = Vec::new();
    let metrics = evaluate(forward, loaders.test(), |seen, logits, labels| {
        bar.set_position(seen as u64);
        let predicted = logits.argmax(1)?.to_vec1::<u32>()?;
        predictions.extend(labels.to_vec1::<u32>()?.into_iter().zip(predicted));
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok((metrics, predictions))
}
