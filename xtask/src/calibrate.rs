//! `cargo xtask calibrate`: measures the ranges of a network's feature maps, for inference in int8.

use crate::checkpoint;
use crate::classifier::{Classifier, fit_to_network, print_notes};
use crate::dataset_arg::DatasetName;
use crate::input_options::InputOptions;
use crate::loaders::Loaders;
use crate::open_data::OpenData;
use crate::photo_paths::{Fault, photos};
use crate::plural::counted;
use crate::recipe::{Overrides, Recipe};
use crate::weights_source::pretrained;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use indicatif::ProgressBar;
use resnext_data::{PhotoLoader, Sample};
use resnext_model::{Calibration, Fused, Pretrained};
use resnext_train::Data;
use resnext_train::checkpoint::replace_file;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// Run folder (its best checkpoint), weights file, or repository of the Hugging Face Hub
    weights: String,
    /// Photos, folders of photos, or patterns such as 'photos/*.jpg' [default: training images of the data
    /// set]
    photos: Vec<String>,
    /// The most images to use, spread evenly over the photos
    #[arg(long, default_value_t = 256)]
    images: usize,
    /// Data set [default: the one that the weights were trained on]
    #[arg(long, conflicts_with = "photos")]
    dataset: Option<DatasetName>,
    /// Archive (.tar.gz) or folder of the data set
    #[arg(long, conflicts_with = "photos")]
    data: Option<PathBuf>,
    #[command(flatten)]
    input: InputOptions,
    /// JSON file to write, for --ranges of eval, predict and bench
    #[arg(long, default_value = "ranges.json")]
    out: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.images > 0, "--images must be at least 1");
    let mut calibration = Calibration::new();
    let images = match args.photos.is_empty() {
        true => observe_dataset(&args, &mut calibration)?,
        false => observe_photos(&args, &mut calibration)?,
    };
    let ranges = calibration.ranges()?;
    replace_file(&args.out, serde_json::to_string_pretty(&ranges)?.as_bytes())?;
    println!(
        "{}: ranges of {}, from {}",
        args.out.display(),
        counted(ranges.len(), "feature map"),
        counted(images, "image")
    );
    Ok(())
}

/// Runs the network on photos, and returns their number.
fn observe_photos(args: &Args, calibration: &mut Calibration) -> Result<usize> {
    let classifier = Classifier::open(&args.weights, &args.input)?;
    let network = network(&classifier.pretrained)?;
    let named = photos(&args.photos)?;
    if let Some(Fault { name, reason }) = named.faults.first() {
        bail!("{name}: {reason}");
    }
    named.print_left_out();
    let all = named.paths;
    let wanted = all.len().min(args.images);
    let paths: Vec<PathBuf> = (0..wanted).map(|i| all[i * all.len() / wanted].clone()).collect();
    let (bar, mut done) = (ProgressBar::new(wanted as u64), 0);
    let (height, width) = classifier.transform.crop;
    let decode = |_: &Path, sample: resnext_data::Result<Sample>| sample.map(|sample| sample.input);
    for input in PhotoLoader::new(paths, classifier.transform, vec![decode; 2]) {
        let x = Tensor::from_vec(input??, (1, height, width, 3), &Device::Cpu)?.permute((0, 3, 1, 2))?;
        network.calibrate(&x, calibration)?;
        done += 1;
        bar.set_position(done as u64);
    }
    bar.finish_and_clear();
    ensure!(done == wanted, "only {done} of {} could be read", counted(wanted, "photo"));
    print_notes(&classifier.pretrained);
    Ok(done)
}

/// Runs the network on training images of a data set, and returns their number.
fn observe_dataset(args: &Args, calibration: &mut Calibration) -> Result<usize> {
    let mut pretrained = pretrained(&args.weights)?;
    let mut recipe = match checkpoint::recipe(&pretrained.weights)? {
        Some(recipe) => recipe,
        None => Recipe::of(args.dataset.with_context(|| {
            format!("{}: weights that are not from a run need photos, or --dataset", args.weights)
        })?)?,
    };
    let Args { dataset, data, images, input, .. } = args;
    recipe.apply(&Overrides { dataset: *dataset, data: data.clone(), ..Default::default() })?;
    let network = network(&pretrained)?;
    let data = fit_to_network(OpenData::new(&recipe, None)?, &mut pretrained, input)?;
    let loaders = Loaders::new(data, recipe.batch_size, false, 0, &Device::Cpu)?;
    let wanted = loaders.train_len().min(*images);
    let (bar, mut done) = (ProgressBar::new(wanted as u64), 0);
    for batch in loaders.train(0, 0) {
        let (x, _) = batch?;
        let x = x.narrow(0, 0, x.dim(0)?.min(wanted - done))?;
        network.calibrate(&x, calibration)?;
        done += x.dim(0)?;
        bar.set_position(done as u64);
        if done == wanted {
            break;
        }
    }
    bar.finish_and_clear();
    ensure!(done > 0, "the data set has no training images");
    print_notes(&pretrained);
    Ok(done)
}

fn network(pretrained: &Pretrained) -> Result<Fused> {
    let config = pretrained.network.config()?;
    config.check_int8()?;
    let builder = pretrained.weights.builder(DType::F32, &Device::Cpu);
    Ok(Fused::new(config, builder, DType::F32)?)
}
