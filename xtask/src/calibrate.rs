//! `cargo xtask calibrate`

use crate::data::{DatasetName, Loaders};
use crate::photos::photos;
use crate::recipe::{Overrides, Recipe};
use crate::source::{self, Source};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use indicatif::ProgressBar;
use resnext_data::{PhotoLoader, Sample};
use resnext_model::{Calibration, Fused};
use resnext_train::Data;
use resnext_train::checkpoint::replace_file;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// Run's folder (its best checkpoint), weights file, or repository of the hub
    weights: String,
    /// Photos, folders of photos, or patterns such as 'photos/*.jpg'; training images of the data set if not given
    photos: Vec<String>,
    /// Images to look at, at most; of more photos, as many from all over them
    #[arg(long, default_value_t = 256)]
    images: usize,
    /// Data set, where the weights don't say or another is meant
    #[arg(long, conflicts_with = "photos")]
    dataset: Option<DatasetName>,
    /// Archive or folder the data set is read from
    #[arg(long, conflicts_with = "photos")]
    data: Option<PathBuf>,
    /// JSON file to write, for --ranges of eval, predict and bench
    #[arg(long, default_value = "ranges.json")]
    out: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.images > 0, "--images must be at least 1");
    let mut calibration = Calibration::new();
    let seen = match args.photos.is_empty() {
        true => see_data(&args, &mut calibration)?,
        false => see_photos(&args, &mut calibration)?,
    };
    let ranges = calibration.ranges()?;
    replace_file(&args.out, serde_json::to_string_pretty(&ranges)?.as_bytes())?;
    println!("looked at {seen} images; the ranges of {} maps are in {}", ranges.len(), args.out.display());
    Ok(())
}

fn see_photos(args: &Args, calibration: &mut Calibration) -> Result<usize> {
    let source = Source::open(&args.weights)?;
    let network = network(&source.pretrained)?;
    let all = photos(&args.photos)?;
    let wanted = all.len().min(args.images);
    let paths: Vec<PathBuf> = (0..wanted).map(|i| all[i * all.len() / wanted].clone()).collect();
    let (bar, mut seen) = (ProgressBar::new(wanted as u64), 0);
    let (height, width) = source.transform.crop;
    let decode = |_: &Path, sample: resnext_data::Result<Sample>| sample.map(|sample| sample.input);
    for input in PhotoLoader::new(paths, source.transform, vec![decode; 2]) {
        let x = Tensor::from_vec(input?, (1, height, width, 3), &Device::Cpu)?.permute((0, 3, 1, 2))?;
        network.calibrate(&x, calibration)?;
        seen += 1;
        bar.set_position(seen as u64);
    }
    bar.finish_and_clear();
    ensure!(seen == wanted, "only {seen} of {wanted} photos were read");
    Ok(seen)
}

fn see_data(args: &Args, calibration: &mut Calibration) -> Result<usize> {
    let pretrained = source::pretrained(&args.weights)?;
    let mut recipe = match source::recipe(&pretrained.weights)? {
        Some(recipe) => recipe,
        None => {
            Recipe::of(args.dataset.context("weights that are no checkpoint's need photos, or --dataset")?)?
        }
    };
    let Args { dataset, data, images, .. } = args;
    recipe.apply(&Overrides { dataset: *dataset, data: data.clone(), ..Default::default() });
    let network = network(&pretrained)?;
    let splits = recipe.dataset.open(recipe.data.as_deref())?;
    let loaders = Loaders::new(splits, recipe.batch_size, false, 0, &Device::Cpu)?;
    let wanted = loaders.train_set().len().min(*images);
    let (bar, mut seen) = (ProgressBar::new(wanted as u64), 0);
    for batch in loaders.train(0, 0) {
        let (x, _) = batch?;
        let x = x.narrow(0, 0, x.dim(0)?.min(wanted - seen))?;
        network.calibrate(&x, calibration)?;
        seen += x.dim(0)?;
        bar.set_position(seen as u64);
        if seen == wanted {
            break;
        }
    }
    bar.finish_and_clear();
    ensure!(seen > 0, "expected training images, there are none");
    Ok(seen)
}

fn network(pretrained: &resnext_model::Pretrained) -> Result<Fused> {
    let builder = pretrained.weights.builder(DType::F32, &Device::Cpu);
    Ok(Fused::new(&pretrained.config, builder, DType::F32)?)
}
