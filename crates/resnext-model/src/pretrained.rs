//! A trained network with all that its use requires: weights, configuration, preprocessing and class names.

use crate::config::{BlockKind, Config, StemKind};
use crate::error::{Error, Result};
use crate::weights::{Head, Weights};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A trained network, from a file, a folder or a repository of the Hugging Face Hub.
#[derive(Debug, Clone)]
pub struct Pretrained {
    /// The path or repository that it comes from, for messages.
    pub source: String,
    /// The weights.
    pub weights: Weights,
    /// The configuration of the network, inferred from the weights and checked against `config.json`.
    pub config: Config,
    /// How images are prepared for it.
    pub preprocessing: Preprocessing,
    /// The name of each class, if `config.json` has them.
    pub labels: Option<Vec<String>>,
}

/// How images are prepared for a network, in the terms of timm.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    /// Height and width of the network's input in pixels.
    pub size: (usize, usize),
    /// The side of the central crop as a fraction of the shorter side that photos are resized to.
    pub crop_pct: f64,
    /// `bilinear` or `bicubic`.
    pub interpolation: String,
    /// The mean that is subtracted from pixels scaled to [0, 1], for red, green and blue.
    pub mean: [f32; 3],
    /// The standard deviation that pixels are then divided by, for red, green and blue.
    pub std: [f32; 3],
}

impl Preprocessing {
    /// The usual preprocessing of networks with this stem: torchvision's for ImageNet (resize to 256, central
    /// crop of 224, bilinear, mean and standard deviation of ImageNet), or whole 32×32 images with those of
    /// CIFAR-10.
    pub fn usual(stem: StemKind) -> Self {
        match stem {
            StemKind::ImageNet => Preprocessing {
                size: (224, 224),
                crop_pct: 0.875,
                interpolation: "bilinear".into(),
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
            },
            StemKind::Cifar => Preprocessing {
                size: (32, 32),
                crop_pct: 1.0,
                interpolation: "bilinear".into(),
                mean: [0.4914, 0.4822, 0.4465],
                std: [0.2470, 0.2435, 0.2616],
            },
        }
    }

    /// The shorter side, in pixels, that photos are resized to.
    pub fn resize(&self) -> usize {
        (self.size.0.min(self.size.1) as f64 / self.crop_pct).floor() as usize
    }
}

/// A repository's `config.json`. timm has the settings for images in `pretrained_cfg`; older files have them
/// at the top level.
#[derive(Debug, Default, Deserialize)]
struct ConfigFile {
    num_classes: Option<usize>,
    pretrained_cfg: Option<ImageSettings>,
    #[serde(flatten)]
    flat: ImageSettings,
    label_names: Option<Vec<String>>,
    #[serde(default)]
    label_descriptions: Option<BTreeMap<String, String>>,
    labels: Option<Vec<String>>,
}

#[derive(Debug, Default, Clone, Deserialize)]
struct ImageSettings {
    input_size: Option<(usize, usize, usize)>,
    crop_pct: Option<f64>,
    crop_mode: Option<String>,
    interpolation: Option<String>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
    label_names: Option<Vec<String>>,
    label_descriptions: Option<BTreeMap<String, String>>,
}

/// Names of the weights file in a folder or repository. The first one that exists is used.
pub(crate) const WEIGHT_FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const CONFIG_FILE: &str = "config.json";

/// How the names of timm's networks start that have the names and shapes of torchvision's weights, but
/// compute something else; and what that is.
const LOOKALIKES: [(&str, &str); 2] =
    [("resnetaa", "average pools where ours has strides"), ("resnetblur", "blurs where ours has strides")];

impl Pretrained {
    /// Opens a weights file, or a folder with `model.safetensors` or `pytorch_model.bin`. A `config.json`
    /// beside it is used if it is timm's.
    ///
    /// # Errors
    /// Those of [`Weights::open`], [`Weights::config`] and [`Weights::check`]; [`Error::ConfigFile`] if
    /// `config.json` cannot be read or describes another network.
    pub fn open(path: &Path) -> Result<Self> {
        let (weights, folder) = if path.is_dir() {
            let found = WEIGHT_FILES.iter().map(|file| path.join(file)).find(|file| file.is_file());
            let reason = || format!("the folder has no {}", WEIGHT_FILES.join(" and no "));
            (found.ok_or_else(|| Error::File { path: path.to_path_buf(), reason: reason() })?, path)
        } else {
            (path.to_path_buf(), path.parent().unwrap_or(Path::new("")))
        };
        let config = folder.join(CONFIG_FILE);
        let config = Some(config).filter(|config| config.is_file());
        Pretrained::from_files(path.display().to_string(), &weights, config.as_deref())
    }

    /// Downloads a repository of the hub: `config.json`, and `model.safetensors` or, from older repositories,
    /// `pytorch_model.bin`.
    ///
    /// # Errors
    /// [`Error::Hub`], and those of [`open`](Self::open).
    #[cfg(feature = "hub")]
    pub fn from_hub(hub: &crate::hub::Hub, repo: &crate::hub::repo::RepoId) -> Result<Self> {
        use crate::hub::error::HubError;
        use crate::hub::is_absent;
        let optional = |file: &str| match hub.get(repo, file) {
            Err(error) if is_absent(&error) => Ok(None),
            found => found.map(Some),
        };
        let config = optional(CONFIG_FILE)?;
        let weights = match optional(WEIGHT_FILES[0])? {
            Some(path) => path,
            None => hub.get(repo, WEIGHT_FILES[1]).map_err(|error| match error {
                HubError::NoFile { repo, .. } => {
                    HubError::NoFile { repo, file: WEIGHT_FILES.join(" and no ") }
                }
                other => other,
            })?,
        };
        Pretrained::from_files(repo.to_string(), &weights, config.as_deref())
    }

    fn from_files(source: String, weights: &Path, config_path: Option<&Path>) -> Result<Self> {
        let weights = Weights::open(weights)?;
        let config = weights.config()?;
        weights.check(&config, Head::Loaded)?;
        let usual = Preprocessing::usual(config.stem);
        let mut pretrained = Pretrained { source, weights, config, preprocessing: usual, labels: None };
        if let Some(path) = config_path {
            pretrained.describe(path)?;
        }
        Ok(pretrained)
    }

    /// Applies what `config.json` says, after checks that it describes these weights.
    fn describe(&mut self, path: &Path) -> Result<()> {
        let failed = |problem: String| Error::ConfigFile { path: path.to_path_buf(), problem };
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| failed(e.to_string()))?;
        let Some(architecture) = value["architecture"].as_str().map(String::from) else {
            // This is another program's file, in which the same keys may mean something else.
            return Ok(());
        };
        let file: ConfigFile = match check_lookalike(&architecture) {
            Ok(()) => serde_json::from_value(value).map_err(|e| failed(e.to_string()))?,
            Err(problem) => return Err(failed(problem)),
        };
        self.check_network(&architecture, file.num_classes).map_err(failed)?;
        let settings = file.pretrained_cfg.unwrap_or(file.flat);
        let names = file.label_names.or(settings.label_names.clone()).or(file.labels);
        let descriptions = file.label_descriptions.or(settings.label_descriptions.clone());
        self.preprocessing = settings.over(&self.preprocessing).map_err(failed)?;
        self.labels = names
            .map(|names| labels(names, &descriptions.unwrap_or_default(), self.config.classes))
            .transpose()
            .map_err(failed)?;
        Ok(())
    }

    /// Checks that `architecture` and its number of classes are those of the weights.
    fn check_network(
        &self,
        architecture: &str,
        expected_classes: Option<usize>,
    ) -> std::result::Result<(), String> {
        let weights = self.weights.path().display();
        let Config { cardinality, base_width, depths, block, classes, .. } = &self.config;
        if let Some(expected) = expected_classes.filter(|expected| expected != classes) {
            return Err(format!("expected {expected} classes, file has {classes}: fc.weight in {weights}"));
        }
        let Ok(expected) = Config::by_name(architecture) else { return Ok(()) };
        let found = (*cardinality, *base_width, depths, *block);
        if (expected.cardinality, expected.base_width, &expected.depths, expected.block) != found {
            let kind = if *block == BlockKind::Basic { "basic blocks" } else { "blocks" };
            return Err(format!(
                "expected {architecture}, file has {cardinality}×{base_width}d in {kind} {depths:?}: {weights}"
            ));
        }
        Ok(())
    }
}

fn check_lookalike(architecture: &str) -> std::result::Result<(), String> {
    match LOOKALIKES.iter().find(|(start, _)| architecture.starts_with(start)) {
        Some((_, what)) => {
            Err(format!("expected a ResNet or ResNeXt, as torchvision's; {architecture} has {what}"))
        }
        None => Ok(()),
    }
}

impl ImageSettings {
    /// The preprocessing that these settings give, with that of `usual` where they give none.
    fn over(self, usual: &Preprocessing) -> std::result::Result<Preprocessing, String> {
        if let Some(mode) = self.crop_mode.filter(|mode| mode != "center") {
            return Err(format!("expected crop_mode center, got {mode}"));
        }
        let crop_pct = self.crop_pct.unwrap_or(usual.crop_pct);
        if !(crop_pct > 0.0 && crop_pct <= 1.0) {
            return Err(format!("crop_pct must be above 0 and at most 1, got {crop_pct}"));
        }
        Ok(Preprocessing {
            size: self.input_size.map_or(usual.size, |(_, height, width)| (height, width)),
            crop_pct,
            interpolation: self.interpolation.unwrap_or_else(|| usual.interpolation.clone()),
            mean: self.mean.unwrap_or(usual.mean),
            std: self.std.unwrap_or(usual.std),
        })
    }
}

/// The names of the classes, each with its description instead if it has one.
fn labels(
    names: Vec<String>,
    descriptions: &BTreeMap<String, String>,
    classes: usize,
) -> std::result::Result<Vec<String>, String> {
    if names.len() != classes {
        return Err(format!("expected {classes} label_names, got {}", names.len()));
    }
    Ok(names.into_iter().map(|name| descriptions.get(&name).cloned().unwrap_or(name)).collect())
}
