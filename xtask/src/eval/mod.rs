//! `cargo xtask eval`: the accuracy of a trained network on a test set.

mod calibration_error;
mod network;
mod real;
mod results;
mod views;

use crate::checkpoint;
use crate::classifier::{fit_to_network, print_notes};
use crate::dataset_arg::DatasetName;
use crate::device_arg::{self, DeviceName};
use crate::dtype_arg::{self, Dtype};
use crate::input_options::InputOptions;
use crate::loaders::Loaders;
use crate::open_data::OpenData;
use crate::plural::counted;
use crate::recipe::{Overrides, Recipe};
use crate::report::FIVE;
use crate::report::confusion::{ClassScores, Confusion};
use crate::text_table::Table;
use crate::weights_source::pretrained;
use anyhow::{Context, Result, ensure};
use calibration_error::calibration_error;
use candle_core::{DType, Tensor};
use indicatif::ProgressBar;
pub use network::Network;
use real::RealLabels;
use resnext_model::{Form, Pretrained};
use resnext_train::checkpoint::replace_file;
use resnext_train::{Metrics, evaluate};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;
pub use views::Views;

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
    /// Archive (.tar.gz) or folder of the data set, or a tar shard, a parquet file or a pattern of them
    #[arg(long)]
    data: Option<PathBuf>,
    /// Images per batch
    #[arg(long)]
    batch_size: Option<usize>,
    /// CSV file to write, with the label and the predicted class of each test image
    #[arg(long)]
    predictions: Option<PathBuf>,
    /// File to add a row of all figures to: .csv, or .jsonl for JSON lines
    #[arg(long)]
    results: Option<PathBuf>,
    /// ReaL labels of ImageNet's validation images: real.json of Beyer et al.
    #[arg(long)]
    real: Option<PathBuf>,
    /// Views of each image, whose probabilities are averaged
    #[arg(long, value_enum, default_value = "one")]
    views: Views,
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
    args.results.as_deref().map(results::check).transpose()?;
    let start = Instant::now();
    let mut pretrained = pretrained(&args.weights)?;
    let (recipe, name) = recipe(&args, &pretrained)?;
    let data = fit_to_network(OpenData::new(&recipe, None)?, &mut pretrained, &args.input)?;
    let network =
        Network::new((args.model.as_deref(), args.form), &pretrained, data.class_names().len(), &device)?;

    let classes = data.class_names().len();
    let real = args.real.as_deref().map(|path| RealLabels::read(path, classes)).transpose()?;
    let loaders = Loaders::new(data, recipe.batch_size, false, 0, &device)?;
    ensure!(
        args.dtype.is_none() || device.is_cpu(),
        "--dtype is for inference on the CPU: leave it out, or pass --device cpu"
    );
    let ranges = args.dtype.unwrap_or(Dtype::F32).ranges(args.ranges.as_deref())?;
    args.dtype.inspect(|dtype| dtype.say_how());
    let fused =
        args.dtype.map(|dtype| network.fuse(dtype, ranges.as_ref(), args.ranges.as_deref())).transpose()?;
    let (metrics, predictions) = judge(&loaders, args.views, |images| match &fused {
        Some(fused) => fused.forward(images),
        None => network.forward(images),
    })?;
    ensure!(metrics.count > 0, "the test set of {} has no images", recipe.dataset);
    let error = calibration_error(predictions.iter().map(|p| (p.confidence, p.label == p.predicted)));
    let scores = scores(loaders.class_names().len(), &predictions);
    let [precision, recall, f1] = means(&scores);
    let names = || loaders.test_names(&(0..predictions.len()).collect::<Vec<_>>());
    let real =
        real.map(|labels| labels.judge(&names(), predictions.iter().map(|p| p.predicted))).transpose()?;
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
    let top5 = match loaders.class_names().len() > FIVE {
        true => format!(", top-5 {:.2} %", 100.0 * metrics.top5()),
        false => String::new(),
    };
    writeln!(
        out,
        "top-1 {:.2} %{}, loss {:.4}, expected calibration error {:.2} %{}",
        100.0 * metrics.top1(),
        top5,
        metrics.loss(),
        100.0 * error,
        match args.views {
            Views::One => "",
            Views::Flip => ", of each image and its mirror image",
            Views::Ten => ", of ten crops of each image",
        }
    )?;
    if let Some(real) = real {
        let share = 100.0 * real.share();
        writeln!(out, "ReaL top-1 {share:.2} % of {} that have ReaL labels", counted(real.images, "image"))?;
    }
    if let Some(dtype) = args.dtype.filter(|&dtype| dtype != Dtype::F32) {
        writeln!(out, "{}", beside_f32(dtype, &metrics, &predictions, &network, &loaders, args.views)?)?;
    }
    write!(out, "{}", class_table(loaders.class_names(), &metrics, &scores).to_text())?;
    if let Some(path) = &args.results {
        let preprocessing = &pretrained.preprocessing;
        let (height, width) = preprocessing.size;
        let percent = |share: f64| (1e4 * share).round() / 1e2;
        let row = results::Row {
            model: name.unwrap_or_else(|| "unnamed".into()),
            weights: pretrained.weights.path().display().to_string(),
            dataset: recipe.dataset.to_string(),
            images: metrics.count,
            size: format!("{height}x{width}"),
            crop_pct: preprocessing.crop_pct,
            interpolation: preprocessing.interpolation.clone(),
            views: args.views.name(),
            dtype: args.dtype.unwrap_or(Dtype::F32).name(),
            top1: percent(metrics.top1()),
            top5: percent(metrics.top5()),
            real_top1: real.map(|real| percent(real.share())),
            loss: metrics.loss(),
            calibration_error: percent(error),
            precision: percent(precision),
            recall: percent(recall),
            f1: percent(f1),
            parameters: network.architecture.summary(height, width)?.parameters() as f64 / 1e6,
            seconds: start.elapsed().as_secs_f64(),
        };
        results::add(path, &row)?;
    }
    Ok(())
}

/// The recipe that decides data and batch size, and the network's name if it is known.
fn recipe(args: &Args, pretrained: &Pretrained) -> Result<(Recipe, Option<String>)> {
    let saved = checkpoint::recipe(&pretrained.weights)?;
    let name = args.model.clone().or(saved.as_ref().map(|recipe| recipe.model.clone()));
    let mut recipe = match saved {
        Some(recipe) => recipe,
        None => {
            let missing = || format!("{}: weights that are not from a run need --dataset", args.weights);
            Recipe::of(args.dataset.with_context(missing)?)?
        }
    };
    let overrides = Overrides {
        dataset: args.dataset,
        data: args.data.clone(),
        batch_size: args.batch_size,
        ..Default::default()
    };
    recipe.apply(&overrides)?;
    overrides.check_data_of(&recipe, Some(&args.weights))?;
    Ok((recipe, name))
}

/// The network's prediction for a test image.
pub struct Prediction {
    label: u32,
    predicted: u32,
    /// The probability of the predicted class, from 0 to 1.
    confidence: f64,
}

/// Evaluates a network, images (N, 3, H, W) to logits (N, classes), on the test set.
pub fn judge(
    loaders: &Loaders,
    views: Views,
    forward: impl Fn(&Tensor) -> resnext_model::Result<Tensor>,
) -> Result<(Metrics, Vec<Prediction>)> {
    let bar = ProgressBar::new(loaders.test_len() as u64);
    let mut predictions = Vec::new();
    let forward = |images: &Tensor| views.judge(images, &forward);
    let metrics = evaluate(forward, views.batches(loaders)?, |done, logits, labels| {
        bar.set_position(done as u64);
        let predicted = logits.argmax(1)?.to_vec1::<u32>()?;
        let rows = logits.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        for ((label, predicted), row) in labels.to_vec1::<u32>()?.into_iter().zip(predicted).zip(&rows) {
            let largest = row[predicted as usize];
            let confidence = 1.0 / row.iter().map(|logit| (logit - largest).exp()).sum::<f64>();
            predictions.push(Prediction { label, predicted, confidence });
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok((metrics, predictions))
}

fn write_predictions(path: &Path, predictions: &[Prediction]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["image", "label", "prediction"])?;
    for (i, Prediction { label, predicted, .. }) in predictions.iter().enumerate() {
        writer.serialize((i, label, predicted))?;
    }
    Ok(replace_file(path, &writer.into_inner()?)?)
}

/// The effect of a type, compared with the same network in f32, as a sentence.
fn beside_f32(
    dtype: Dtype,
    metrics: &Metrics,
    predictions: &[Prediction],
    network: &Network,
    loaders: &Loaders,
    views: Views,
) -> Result<String> {
    let network = network.fuse(Dtype::F32, None, None)?;
    let (f32_metrics, f32_predictions) = judge(loaders, views, |images| network.forward(images))?;
    let pairs = predictions.iter().zip(&f32_predictions);
    let same = pairs.filter(|(one, other)| one.predicted == other.predicted).count();
    Ok(format!(
        "top-1 changes by {:+.2} points in {}, from {:.2} % in f32; \
         the predicted class is the same for {:.2} % of images",
        100.0 * (metrics.top1() - f32_metrics.top1()),
        dtype.name(),
        100.0 * f32_metrics.top1(),
        100.0 * same as f64 / predictions.len().max(1) as f64
    ))
}

/// Precision, recall and F1 of each class.
fn scores(classes: usize, predictions: &[Prediction]) -> Vec<ClassScores> {
    let mut confusion = Confusion::new(classes);
    predictions.iter().for_each(|p| confusion.add(p.label as usize, p.predicted as usize));
    (0..classes).map(|class| confusion.scores(class)).collect()
}

/// The means of precision, recall and F1 over the classes that have images. A class that nothing was taken for has
/// a precision of 0.
fn means(scores: &[ClassScores]) -> [f64; 3] {
    let tested: Vec<&ClassScores> = scores.iter().filter(|scores| scores.images > 0).collect();
    let mean = |of: fn(&ClassScores) -> Option<f64>| {
        tested.iter().map(|scores| of(scores).unwrap_or(0.0)).sum::<f64>() / tested.len().max(1) as f64
    };
    [mean(|scores| scores.precision), mean(|scores| scores.recall), mean(|scores| scores.f1)]
}

fn class_table(names: &[String], metrics: &Metrics, scores: &[ClassScores]) -> Table {
    let mut table = Table::new(&["class", "images", "correct", "precision", "recall", "F1"]);
    // No figure, which is not the same as one of 0 %.
    let percent =
        |share: Option<f64>| share.map_or("–".to_string(), |share| format!("{:.2} %", 100.0 * share));
    for ((name, (correct, images)), scores) in names.iter().zip(&metrics.per_class).zip(scores) {
        let f1 = scores.recall.and(scores.f1);
        let [precision, recall, f1] = [scores.precision, scores.recall, f1].map(percent);
        table.row(vec![name.clone(), images.to_string(), correct.to_string(), precision, recall, f1]);
    }
    table
}
