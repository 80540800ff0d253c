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
    /// Images to look at, at most
    #[arg(long, default_value_t = 256)]
    images: usize,
    /// Data set, where there are no photos and the weights don't say
    #[arg(long)]
    dataset: Option<DatasetName>,
    /// Archive or folder the data set is read from
    #[arg(long)]
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
    let mut paths = photos(&args.photos)?;
    paths.truncate(args.images);
    let bar = ProgressBar::new(paths.len() as u64);
    let (height, width) = source.transform.crop;
    let decode = |_: &Path, sample: resnext_data::Result<Sample>| sample.map(|sample| sample.input);
    for input in PhotoLoader::new(paths, source.transform, vec![decode; 2]) {
        let x = Tensor::from_vec(input?, (1, height, width, 3), &Device::Cpu)?.permute((0, 3, 1, 2))?;
        network.calibrate(&x, calibration)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(bar.position() as usize)
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
    let bar = ProgressBar::new(loaders.train_set().len().min(*images) as u64);
    for batch in loaders.train(0, 0) {
        let (x, _) = batch?;
        let left = images - bar.position() as usize;
        let x = x.narrow(0, 0, x.dim(0)?.min(left))?;
        network.calibrate(&x, calibration)?;
        bar.inc(x.dim(0)? as u64);
        if x.dim(0)? == left {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(bar.position() as usize)
}

fn network(pretrained: &resnext_model::Pretrained) -> Result<Fused> {
    let builder = pretrained.weights.builder(DType::F32, &Device::Cpu);
    Ok(Fused::new(&pretrained.config, builder, DType::F32)?)
}
