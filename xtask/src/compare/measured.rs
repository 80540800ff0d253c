//! Errors of trained networks, measured as `eval` does it.

use crate::classifier::{Classifier, print_notes};
use crate::dtype_arg::Dtype;
use crate::eval::{Network, Views, judge};
use crate::input_options::InputOptions;
use crate::loaders::Loaders;
use crate::open_data::OpenData;
use crate::photo_options::PhotoOptions;
use crate::photo_sets::PhotoSets;
use crate::plural::counted;
use crate::report::FIVE;
use anyhow::{Context, Result, ensure};
use candle_core::Device;
use resnext_data::{ImageFolder, ImageSet};
use std::path::{Path, PathBuf};

/// Photos per batch.
const BATCH: usize = 16;
/// What a file of weights ends with.
const ENDINGS: [&str; 4] = ["safetensors", "pth", "pt", "bin"];

/// The error of a network, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    pub top1: f64,
    /// `None` if there are so few classes that it says nothing.
    pub top5: Option<f64>,
}

/// A folder of weights, and the photos that they are judged by.
pub struct Validation {
    weights: PathBuf,
    photos: ImageSet,
    data: PathBuf,
}

impl Validation {
    /// Opens both.
    ///
    /// # Errors
    /// If there are no weights of any of the networks `names`, or no photos.
    pub fn open(weights: &Path, data: &Path, names: &[String]) -> Result<Self> {
        let photos = ImageFolder::validation_photos(data)?;
        let validation = Validation { weights: weights.to_path_buf(), photos, data: data.to_path_buf() };
        ensure!(weights.is_dir(), "{}: no such folder of weights", weights.display());
        ensure!(
            names.iter().any(|name| validation.find(name).is_some()),
            "{} has weights of none of these networks: expected a file such as {}.safetensors",
            weights.display(),
            names.first().map_or("resnet101", String::as_str)
        );
        Ok(validation)
    }

    /// The weights of a network: a file or folder that is called like it.
    fn find(&self, name: &str) -> Option<PathBuf> {
        let folder = self.weights.join(name);
        let files = ENDINGS.iter().map(|ending| self.weights.join(format!("{name}.{ending}")));
        std::iter::once(folder).chain(files).find(|path| path.exists())
    }

    /// The error of a network in f32, of one view of each photo; `None` if it has no weights.
    pub fn measure(&self, name: &str) -> Result<Option<Measured>> {
        let Some(path) = self.find(name) else { return Ok(None) };
        self.measure_weights(name, &path).with_context(|| path.display().to_string()).map(Some)
    }

    fn measure_weights(&self, name: &str, path: &Path) -> Result<Measured> {
        let Classifier { pretrained, transform, .. } =
            Classifier::open(&path.display().to_string(), &InputOptions::default())?;
        print_notes(&pretrained);
        let (classes, own) = (self.photos.class_names().len(), pretrained.network.classes());
        ensure!(own == classes, "its network has {own} classes, but {} has {classes}", self.data.display());
        let network = Network::new((Some(name), None), &pretrained, classes, &Device::Cpu)?;
        let network = network.fuse(Dtype::F32, None, None)?;
        let sets = PhotoSets::for_evaluation(self.photos.clone());
        let data = OpenData::Photos(Box::new(sets), Box::<PhotoOptions>::default(), transform);
        let loaders = Loaders::new(data, BATCH, false, 0, &Device::Cpu)?;
        let (metrics, _) = judge(&loaders, Views::One, |images| network.forward(images))?;
        ensure!(metrics.count > 0, "{} has no photo that can be read", self.data.display());
        let error = |share: f64| 100.0 * (1.0 - share);
        Ok(Measured { top1: error(metrics.top1()), top5: (classes > FIVE).then(|| error(metrics.top5())) })
    }

    /// What was measured, for the report.
    pub fn note(&self) -> String {
        format!(
            "error of the weights in {} on {} of {}, one central crop each, prepared as the weights say, in f32",
            self.weights.display(),
            counted(self.photos.len(), "photo"),
            self.data.display()
        )
    }
}
