//! `cargo xtask eval`: the accuracy of a trained network on a test set.

use crate::checkpoint;
use crate::classifier::{fit_to_network, print_notes};
use crate::dataset_arg::DatasetName;
use crate::device_arg::{self, DeviceName};
use crate::dtype_arg::{self, Dtype};
use crate::input_options::InputOptions;
use crate::loaders::Loaders;
use crate::open_data::OpenData;
use crate::recipe::{Overrides, Recipe};
use crate::text_table::Table;
use crate::weights_source::pretrained;
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use indicatif::ProgressBar;
use resnext_model::{Config, Form, Pretrained, ResNext};
use resnext_train::checkpoint::replace_file;
use resnext_train::{Data, Metrics, evaluate};
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// Run folder (its best checkpoint), weights file, or repository of the Hugging Face Hub
    weights: String,
    /// Network that the weights must belong to [default: recognised by their shapes]
    #[arg(long)]
    model: Option<String>,
    /// Form of the blocks, a, b or c, to which the weights are converted
    #[arg(long)]
    form: Option<Form>,
    /// Data set [default: the one that the weights were trained on]
    #[arg(long)]
    dataset: Option<DatasetName>,
    /// Archive (.tar.gz) or folder of the data set
    #[arg(long)]
    data: Option<PathBuf>,
    /// Images per batch
    #[arg(long)]
    batch_size: Option<usize>,
    /// CSV file to write, with the label and the predicted class of each test image
    #[arg(long)]
    predictions: Option<PathBuf>,
    /// Evaluate the inference form of the network, in this type [default: the training form, in f32]
    #[arg(long)]
    dtype: Option<Dtype>,
    #[arg(long, help = dtype_arg::RANGES_HELP)]
    ranges: Option<PathBuf>,
    #[command(flatten)]
    input: InputOptions,
    #[arg(long, default_value = "auto", help = device_arg::HELP)]
    device: DeviceName,
}

pub fn run(args: Args) -> Result<()> {
    let device = args.device.open()?;
    let mut pretrained = pretrained(&args.weights)?;
    let (recipe, name) = recipe(&args, &pretrained)?;
    let data = fit_to_network(OpenData::new(&recipe, None)?, &mut pretrained, &args.input)?;
    let network = network(&args, &pretrained, data.class_names().len(), &device)?;

    let loaders = Loaders::new(data, recipe.batch_size, false, 0, &device)?;
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
    ensure!(metrics.count > 0, "the test set of {} has no images", recipe.dataset);
    if let Some(path) = &args.predictions {
        write_predictions(path, &predictions)?;
    }

    print_notes(&pretrained);
    // A closed pipe is an error rather than a panic: `head` may have read enough.
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} on {} test images of {}, weights from {}",
        name.as_deref().unwrap_or("a network"),
        metrics.count,
        recipe.dataset,
        pretrained.weights.path().display()
    )?;
    writeln!(
        out,
        "top-1 {:.2} %, top-5 {:.2} %, loss {:.4}",
        100.0 * metrics.top1(),
        100.0 * metrics.top5(),
        metrics.loss()
    )?;
    if let Some(dtype) = args.dtype.filter(|&dtype| dtype != Dtype::F32) {
        writeln!(out, "{}", beside_f32(dtype, &metrics, &predictions, &network, &loaders)?)?;
    }
    write!(out, "{}", class_table(loaders.class_names(), &metrics).to_text())?;
    Ok(())
}

/// The recipe that decides data and batch size, and the network's name if it is known.
fn recipe(args: &Args, pretrained: &Pretrained) -> Result<(Recipe, Option<String>)> {
    let saved = checkpoint::recipe(&pretrained.weights)?;
    let name = args.model.clone().or(saved.as_ref().map(|recipe| recipe.model.clone()));
    let mut recipe = match saved {
        Some(recipe) => recipe,
        None => Recipe::of(args.dataset.context("weights that are not a run's checkpoint need --dataset")?)?,
    };
    recipe.apply(&Overrides {
        dataset: args.dataset,
        data: args.data.clone(),
        batch_size: args.batch_size,
        ..Default::default()
    })?;
    Ok((recipe, name))
}

/// The network with the pretrained weights, which must have the data set's number of classes.
fn network(args: &Args, pretrained: &Pretrained, classes: usize, device: &Device) -> Result<ResNext> {
    let found = &pretrained.config;
    let expected = match &args.model {
        Some(name) => Config { form: found.form, ..Config::by_name(name)? },
        None => found.clone(),
    };
    let expected = Config { classes, ..expected };
    let form = args.form.unwrap_or(expected.form);
    let tensors = pretrained.weights.in_form(&expected, form, device)?;
    let builder = VarBuilder::from_tensors(tensors.into_iter().collect(), DType::F32, device);
    Ok(ResNext::new(&Config { form, ..expected }, builder)?)
}

/// A test image's label and predicted class.
type Prediction = (u32, u32);

/// Evaluates a network, images (N, 3, H, W) to logits (N, classes), on the test set.
fn judge(
    loaders: &Loaders,
    forward: impl Fn(&Tensor) -> resnext_model::Result<Tensor>,
) -> Result<(Metrics, Vec<Prediction>)> {
    let bar = ProgressBar::new(loaders.test_len() as u64);
    let mut predictions = Vec::new();
    let metrics = evaluate(forward, loaders.test(), |done, logits, labels| {
        bar.set_position(done as u64);
        let predicted = logits.argmax(1)?.to_vec1::<u32>()?;
        predictions.extend(labels.to_vec1::<u32>()?.into_iter().zip(predicted));
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok((metrics, predictions))
}

fn write_predictions(path: &Path, predictions: &[Prediction]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["image", "label", "prediction"])?;
    for (i, (label, predicted)) in predictions.iter().enumerate() {
        writer.serialize((i, label, predicted))?;
    }
    Ok(replace_file(path, &writer.into_inner()?)?)
}

/// What a type changes, compared with the same network in f32, as a sentence.
fn beside_f32(
    dtype: Dtype,
    metrics: &Metrics,
    predictions: &[Prediction],
    network: &ResNext,
    loaders: &Loaders,
) -> Result<String> {
    let network = network.fuse()?;
    let (f32_metrics, f32_predictions) = judge(loaders, |images| network.forward(images))?;
    let same = predictions.iter().zip(&f32_predictions).filter(|(one, other)| one == other).count();
    Ok(format!(
        "top-1 changes by {:+.2} points in {}, from {:.2} % in f32; \
         the predicted class is the same for {:.2} % of images",
        100.0 * (metrics.top1() - f32_metrics.top1()),
        dtype.name(),
        100.0 * f32_metrics.top1(),
        100.0 * same as f64 / predictions.len().max(1) as f64
    ))
}

fn class_table(names: &[String], metrics: &Metrics) -> Table {
    let mut table = Table::new(&["class", "images", "correct", "top-1"]);
    for (name, (correct, images)) in names.iter().zip(&metrics.per_class) {
        let share = match images {
            // No accuracy, which is not the same as one of 0 %.
            0 => "–".into(),
            _ => format!("{:.2} %", 100.0 * *correct as f64 / *images as f64),
        };
        table.row(vec![name.clone(), images.to_string(), correct.to_string(), share]);
    }
    table
}
