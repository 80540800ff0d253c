//! Settings for a folder of photos that nobody has trained on before: chosen by what is in it.

use crate::dataset_arg::DatasetName;
use crate::machine;
use crate::photo_options::PhotoOptions;
use crate::photo_sets::PhotoSets;
use crate::plural::counted;
use crate::recipe::{Overrides, Recipe};
use anyhow::Result;
use resnext_data::{ImageSet, Interpolation};
use resnext_model::{Architecture, Pretrained, StemKind};
use std::path::Path;

/// The recipe that training on photos starts from when it starts from trained weights.
const FINE_TUNE: &str = "fine-tune";

/// The most minutes that a run on CPU cores is to take, by an estimate; a few epochs may take more.
const MINUTES: f64 = 20.0;

/// Multiply-adds and additions per second of one core in training: what small networks reach on Zen 3, so that newer
/// cores need less time than is said.
const SPEED: f64 = 25e9;

/// A recipe for the photos in `folder`, with the options of the command line, and lines that say what was
/// chosen, with the photos themselves. `weights` are those that training starts from, if any; `gpu` is whether
/// it runs on a GPU.
pub fn choose(
    folder: &Path,
    overrides: &Overrides,
    weights: Option<&Pretrained>,
    gpu: bool,
) -> Result<(Recipe, Vec<String>, PhotoSets)> {
    let mut recipe = match weights {
        Some(_) => Recipe::named(FINE_TUNE)?,
        None => Recipe::of(DatasetName::Folder)?,
    };
    recipe.apply(overrides)?;
    let sets = PhotoSets::open(folder, recipe.photos.clone().unwrap_or_default().split())?;
    let (images, classes) = (sets.train.len(), sets.train.class_names().len());
    recipe.batch_size = batch_size(images);
    let (network, passes) = match weights {
        Some(weights) => {
            prepare_as(&mut recipe, weights);
            leave_out_stages(&mut recipe, &weights.network);
            (weights.network.clone(), FINE_TUNING)
        }
        None => {
            recipe.model = overrides.model.clone().unwrap_or_else(|| usual_network(images, gpu).into());
            let network = Architecture::by_name(&recipe.model)?;
            let size = match &network {
                Architecture::ResNext(config) => usual_size(config.stem, images, gpu),
                // Their layers before the last one shrink a map until little is left of smaller images.
                Architecture::Baseline { baseline, .. } => baseline.size(),
            };
            let photos = PhotoOptions { size, test_size: size, ..recipe.photos.clone().unwrap_or_default() };
            recipe.photos = Some(photos);
            (network, FROM_SCRATCH)
        }
    };
    // Batch and crop sizes of the command line decide the rest.
    recipe.apply(overrides)?;
    let size = recipe.photos.as_ref().map_or(0, |photos| photos.size);
    let seconds = seconds(&network.with_classes(classes), size, images)?;
    recipe.epochs = passes.epochs(images, (!gpu).then_some(seconds));
    recipe.apply(overrides)?;
    if recipe.ema != 0.0 && overrides.ema.is_none() {
        let per_step = recipe.batch_size * recipe.accumulate;
        recipe.ema = average(recipe.epochs * images.div_ceil(per_step.max(1)));
    }
    let mut notes = vec![format!(
        "{} of {classes} classes for training, {} for validation{}",
        counted(images, "photo"),
        sets.validation.len(),
        if sets.split { ", split off (--validation sets the share)" } else { "" }
    )];
    notes.extend(uneven(&sets.train));
    let network = match weights {
        Some(weights) => format!("the network of {}", weights.source),
        None => format!("--model {}", recipe.model),
    };
    let chosen = [
        (overrides.model.is_none(), network),
        (!overrides.photos.has_size(), format!("--size {size}")),
        (overrides.batch_size.is_none(), format!("--batch-size {}", recipe.batch_size)),
        (overrides.lr.is_none(), format!("--lr {}", recipe.lr)),
        (overrides.epochs.is_none(), format!("--epochs {}", recipe.epochs)),
        (overrides.ema.is_none() && recipe.ema != 0.0, format!("--ema {}", recipe.ema)),
    ];
    let chosen: Vec<String> = chosen.into_iter().filter_map(|(own, option)| own.then_some(option)).collect();
    if !chosen.is_empty() {
        notes.push(format!("chosen for these: {}", chosen.join(" ")));
    }
    if !gpu {
        notes.push(estimate(recipe.epochs as f64 * seconds));
    }
    Ok((recipe, notes, sets))
}

/// How often photos are to be seen in a run.
struct Passes {
    /// The number of photos, each counted every time it is seen.
    photos: usize,
    /// The fewest epochs, for large folders, and the most, for small ones.
    epochs: (usize, usize),
}

const FROM_SCRATCH: Passes = Passes { photos: 60_000, epochs: (15, 60) };
const FINE_TUNING: Passes = Passes { photos: 12_000, epochs: (8, 40) };

/// The fewest epochs that a limit of time may lead to.
const FEWEST: usize = 5;

impl Passes {
    /// The number of epochs over `images` photos, if an epoch takes this many `seconds` and time is limited.
    fn epochs(&self, images: usize, seconds: Option<f64>) -> usize {
        let (least, most) = self.epochs;
        let wanted = (self.photos / images.max(1)).clamp(least, most);
        match seconds {
            Some(seconds) => wanted.min(((60.0 * MINUTES / seconds.max(1e-9)) as usize).max(FEWEST)),
            None => wanted,
        }
    }
}

/// The seconds that an epoch takes with the threads of this process, by an estimate: three forward passes' work per
/// photo, of two operations per multiply-add.
fn seconds(network: &Architecture, size: usize, images: usize) -> Result<f64> {
    let work = 6.0 * network.summary(size.max(1), size.max(1))?.multiply_adds() as f64;
    Ok(work * images as f64 / (SPEED * machine::threads() as f64))
}

fn estimate(seconds: f64) -> String {
    let time = match (seconds / 60.0).ceil() as u64 {
        minutes @ 0..90 => counted(minutes.max(1) as usize, "minute"),
        minutes => counted(minutes.div_ceil(60) as usize, "hour"),
    };
    format!(
        "about {time} on {}; fewer --epochs or a smaller --size take less",
        counted(machine::threads(), "thread")
    )
}

/// The decay of the weights' average that spans a twentieth of the run's steps; none for a handful of them.
fn average(steps: usize) -> f64 {
    if steps < 200 {
        return 0.0;
    }
    let decay = 1.0 - 20.0 / steps as f64;
    (decay.min(0.9998) * 1e4).round() / 1e4
}

/// A line about classes of which the largest has several times the photos of the smallest.
fn uneven(set: &ImageSet) -> Option<String> {
    let counts = set.class_counts();
    let (least, fewest) = counts.iter().enumerate().min_by_key(|(_, count)| **count)?;
    let most = counts.iter().max()?;
    let name = &set.class_names()[least];
    (most > &(3 * fewest)).then(|| {
        format!(
            "classes are uneven: {fewest} photos of {name}, {most} of the largest; --class-weights balanced lets \
             each count the same"
        )
    })
}

/// The largest of three batch sizes that gives at least eight steps per epoch.
fn batch_size(images: usize) -> usize {
    [64, 32].into_iter().find(|batch| images >= 8 * batch).unwrap_or(16)
}

/// A small network of CIFAR's kind, which a CPU trains in minutes, the smallest for hundreds of photos; on a GPU,
/// ResNeXt-50 if there are photos enough for it.
fn usual_network(images: usize, gpu: bool) -> &'static str {
    match (images, gpu) {
        (5000.., true) => "resnext50_32x4d",
        (..SMALL_FOLDER, _) => "resnext11_8x4d",
        _ => "resnext20_8x4d",
    }
}

/// The side of crops that a network is trained on from scratch: of hundreds of photos a smaller one, which is seen more
/// often in the same time.
fn usual_size(stem: StemKind, images: usize, gpu: bool) -> usize {
    match (stem, gpu) {
        (StemKind::Cifar, _) if images < SMALL_FOLDER => 48,
        (StemKind::Cifar, _) => 64,
        (StemKind::ImageNet, false) => 128,
        (StemKind::ImageNet, true) => 224,
    }
}

/// A folder with fewer photos is small.
const SMALL_FOLDER: usize = 1000;

/// Leaves out what the recipe for fine-tuning sets by stage, if the network has none.
fn leave_out_stages(recipe: &mut Recipe, network: &Architecture) {
    if network.stages() == 0 {
        (recipe.layer_decay, recipe.drop_path) = (1.0, 0.0);
    }
}

/// Prepares photos as the weights' network wants them.
fn prepare_as(recipe: &mut Recipe, weights: &Pretrained) {
    let preparation = &weights.preprocessing;
    let side = preparation.size.0;
    let size = weights.network.config().map_or(side, |config| fine_tuning_size(config.stem, side));
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
}

/// The side of crops for a network that was trained on images of this side. One of CIFAR's 32 pixels sees more of a photo
/// at twice the side, and its convolutions fit any size; one that was trained on photos keeps its own.
fn fine_tuning_size(stem: StemKind, side: usize) -> usize {
    match (stem, side) {
        (StemKind::Cifar, ..=32) => 2 * side,
        _ => side,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_folders_are_seen_more_often_and_time_is_limited() {
        // An epoch of 240 photos takes a second.
        assert_eq!(FROM_SCRATCH.epochs(240, Some(1.0)), 60);
        assert_eq!(FROM_SCRATCH.epochs(2_000, Some(8.0)), 30);
        // Larger folders are seen as often as the time allows, but not less than five times.
        assert_eq!(FROM_SCRATCH.epochs(20_000, Some(100.0)), 12);
        assert_eq!(FROM_SCRATCH.epochs(1_000_000, Some(5000.0)), FEWEST);
        assert_eq!(FROM_SCRATCH.epochs(1_000_000, None), 15);
        assert_eq!(FINE_TUNING.epochs(240, None), 40);
        assert_eq!(
            [usual_network(240, false), usual_network(2_000, false)],
            ["resnext11_8x4d", "resnext20_8x4d"]
        );
        assert_eq!(
            [usual_size(StemKind::Cifar, 240, false), usual_size(StemKind::ImageNet, 240, true)],
            [48, 224]
        );
        assert_eq!(
            [(StemKind::Cifar, 32), (StemKind::Cifar, 48), (StemKind::ImageNet, 224)]
                .map(|(stem, side)| fine_tuning_size(stem, side)),
            [64, 48, 224]
        );
        // The average spans a twentieth of the steps.
        assert_eq!(
            [average(100), average(1500), average(40_000), average(10_000_000)],
            [0.0, 0.9867, 0.9995, 0.9998]
        );
        let network = Architecture::by_name("resnext20_8x4d").unwrap();
        // An Inception has no stages whose rates differ.
        let mut recipe = Recipe::named(FINE_TUNE).unwrap();
        leave_out_stages(&mut recipe, &network);
        assert!(recipe.layer_decay < 1.0);
        leave_out_stages(&mut recipe, &Architecture::by_name("inception_v4").unwrap());
        assert_eq!(recipe.layer_decay, 1.0);
        let [small, large] = [32, 64].map(|size| seconds(&network, size, 100).unwrap());
        assert!((large / small - 4.0).abs() < 0.01, "{small} {large}");
        assert!(
            estimate(61.0).starts_with("about 2 minutes on ")
                && estimate(7300.0).starts_with("about 3 hours on ")
        );
    }
}
