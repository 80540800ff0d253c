//! Settings for a folder of photos that nobody has trained on before: chosen by what is in it.

use crate::dataset_arg::DatasetName;
use crate::photo_options::PhotoOptions;
use crate::photo_sets::PhotoSets;
use crate::plural::counted;
use crate::recipe::{Overrides, Recipe};
use anyhow::Result;
use resnext_data::{ImageSet, Interpolation};
use resnext_model::{Config, Pretrained, StemKind};
use std::path::Path;

/// A recipe for the photos in `folder`, with the options of the command line, and lines that say what was
/// chosen, with the photos themselves. `weights` are those that training starts from, if any; `gpu` is whether
/// it runs on a GPU.
pub fn choose(
    folder: &Path,
    overrides: &Overrides,
    weights: Option<&Pretrained>,
    gpu: bool,
) -> Result<(Recipe, Vec<String>, PhotoSets)> {
    let mut recipe = Recipe::of(DatasetName::Folder)?;
    recipe.apply(overrides)?;
    let sets = PhotoSets::open(folder, recipe.photos.clone().unwrap_or_default().split())?;
    let images = sets.train.len();
    recipe.batch_size = batch_size(images);
    match weights {
        Some(weights) => fine_tuning(&mut recipe, images, weights),
        None => from_scratch(&mut recipe, images, overrides, gpu)?,
    }
    recipe.apply(overrides)?;
    let mut notes = vec![format!(
        "{} of {} classes for training, {} for validation{}",
        counted(images, "photo"),
        sets.train.class_names().len(),
        sets.validation.len(),
        if sets.split { ", split off (--validation sets the share)" } else { "" }
    )];
    notes.extend(uneven(&sets.train));
    let size = recipe.photos.as_ref().map_or(0, |photos| photos.size);
    let network = match weights {
        Some(weights) => format!("the network of {}", weights.source),
        None => format!("--model {}", recipe.model),
    };
    notes.push(format!(
        "chosen for these: {network} --size {size} --batch-size {} --lr {} --epochs {}",
        recipe.batch_size, recipe.lr, recipe.epochs
    ));
    Ok((recipe, notes, sets))
}

/// A line about classes of which the largest has several times the photos of the smallest.
fn uneven(set: &ImageSet) -> Option<String> {
    let counts = set.class_counts();
    let (least, fewest) = counts.iter().enumerate().min_by_key(|(_, count)| **count)?;
    let most = counts.iter().max()?;
    let name = &set.class_names()[least];
    (most > &(3 * fewest))
        .then(|| format!("classes are uneven: {fewest} photos of {name}, {most} of the largest"))
}

/// The number of epochs in which about `passes` photos are seen, within bounds.
fn epochs(passes: usize, images: usize, (least, most): (usize, usize)) -> usize {
    (passes / images.max(1)).clamp(least, most)
}

/// The largest of three batch sizes that gives at least eight steps per epoch.
fn batch_size(images: usize) -> usize {
    [64, 32].into_iter().find(|batch| images >= 8 * batch).unwrap_or(16)
}

/// A small network of CIFAR's kind on small crops, which a CPU trains in minutes; on a GPU, ResNeXt-50 if there
/// are photos enough for it.
fn from_scratch(recipe: &mut Recipe, images: usize, overrides: &Overrides, gpu: bool) -> Result<()> {
    let large = gpu && images >= 5000;
    let usual = if large { "resnext50_32x4d" } else { "resnext20_8x4d" };
    recipe.model = overrides.model.clone().unwrap_or(usual.into());
    let size = match (Config::by_name(&recipe.model)?.stem, gpu) {
        (StemKind::Cifar, _) => 64,
        (StemKind::ImageNet, false) => 128,
        (StemKind::ImageNet, true) => 224,
    };
    let photos = PhotoOptions { size, test_size: size, ..recipe.photos.clone().unwrap_or_default() };
    recipe.photos = Some(photos);
    // The rate of 0.1 is for 64 images per batch; it follows a batch size from the command line.
    recipe.batch_size = overrides.batch_size.unwrap_or(recipe.batch_size);
    recipe.lr = 0.1 * recipe.batch_size as f64 / 64.0;
    recipe.epochs = epochs(24_000, images, (20, 100));
    Ok(())
}

/// The weights' own preparation of images, and a low rate. Their network is the run's.
fn fine_tuning(recipe: &mut Recipe, images: usize, weights: &Pretrained) {
    let preparation = &weights.preprocessing;
    // A network for 32×32 sees more of a photo at twice the side, and its convolutions fit any size.
    let factor = if weights.config.stem == StemKind::Cifar { 2 } else { 1 };
    let size = factor * preparation.size.0;
    let decimal = |value: f32| (value as f64 * 1e6).round() / 1e6;
    recipe.photos = Some(PhotoOptions {
        size,
        test_size: size,
        crop_pct: preparation.crop_pct.min(0.875),
        interpolation: Interpolation::named(&preparation.interpolation).unwrap_or(Interpolation::Bilinear),
        mean: preparation.mean.map(decimal),
        std: preparation.std.map(decimal),
        ..recipe.photos.clone().unwrap_or_default()
    });
    recipe.lr = 0.02 * recipe.batch_size as f64 / 64.0;
    recipe.epochs = epochs(8_000, images, (10, 40));
}
