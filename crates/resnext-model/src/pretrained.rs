//! A trained network with what it takes to use it: weights, configuration, preprocessing, names of its classes.

use crate::config::{BlockKind, Config, Stem};
use crate::error::{Error, Result};
use crate::weights::{Head, Weights};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A trained network, as a file, a folder or a repository of the hub holds it.
#[derive(Debug, Clone)]
pub struct Pretrained {
    /// Where it came from, for messages.
    pub source: String,
    /// Its weights.
    pub weights: Weights,
    /// Its network, told by the weights and checked against what is said about them.
    pub config: Config,
    /// How its images are prepared.
    pub preprocessing: Preprocessing,
    /// Names of the classes by label, where the repository has them.
    pub labels: Option<Vec<String>>,
}

/// How images are prepared for a network, in timm's terms.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    /// Height and width of the network's input.
    pub size: (usize, usize),
    /// The input's side as a share of the shorter side that photos are resized to.
    pub crop_pct: f64,
    /// `bilinear` or `bicubic`.
    pub interpolation: String,
    /// Of pixels scaled to 0..=1.
    pub mean: [f32; 3],
    /// Of pixels scaled to 0..=1.
    pub std: [f32; 3],
}

impl Preprocessing {
    /// What networks with this stem are usually tested with: torchvision's first preset (resize to 256, cut out
    /// 224, bilinear, ImageNet's mean and deviation), or CIFAR-10's whole 32×32 images.
    pub fn usual(stem: Stem) -> Self {
        match stem {
            Stem::ImageNet => Preprocessing {
                size: (224, 224),
                crop_pct: 0.875,
                interpolation: "bilinear".into(),
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
            },
            Stem::Cifar => Preprocessing {
                size: (32, 32),
                crop_pct: 1.0,
                interpolation: "bilinear".into(),
                mean: [0.4914, 0.4822, 0.4465],
                std: [0.2470, 0.2435, 0.2616],
            },
        }
    }

    /// The shorter side that photos are resized to.
    pub fn resize(&self) -> usize {
        (self.size.0.min(self.size.1) as f64 / self.crop_pct).floor() as usize
    }
}

/// A repository's `config.json`. timm puts what concerns images into `pretrained_cfg`, and did put it beside the
/// rest once.
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

/// Files a folder or repository may keep its weights in, the first that is there.
pub(crate) const WEIGHT_FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const CONFIG_FILE: &str = "config.json";

/// How the names of timm's networks begin that compute something else with weights of torchvision's names and shapes.
const LOOKALIKES: [(&str, &str); 2] =
    [("resnetaa", "average pools where ours has strides"), ("resnetblur", "blurs where ours has strides")];

impl Pretrained {
    /// Opens a weights file, with the `config.json` beside it if that is one of timm's, or a folder with
    /// `model.safetensors` or `pytorch_model.bin`.
    ///
    /// # Errors
    /// Those of [`Weights::open`], [`Weights::config`] and [`Weights::check`]; [`Error::ConfigFile`] if
    /// `config.json` is not what its name says or speaks of another network.
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

    /// Gets a repository of the hub: `config.json`, and `model.safetensors` or, in older ones,
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

    /// Takes over what `config.json` says, as far as the weights agree.
    fn describe(&mut self, path: &Path) -> Result<()> {
        let failed = |problem: String| Error::ConfigFile { path: path.to_path_buf(), problem };
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| failed(e.to_string()))?;
        let Some(architecture) = value["architecture"].as_str().map(String::from) else {
            // Some other program's; what it means with the same words is unknown.
            return Ok(());
        };
        if let Some((_, what)) = LOOKALIKES.iter().find(|(start, _)| architecture.starts_with(start)) {
            return Err(failed(format!(
                "expected a ResNet or ResNeXt, as torchvision's; {architecture} has {what}"
            )));
        }
        let file: ConfigFile = serde_json::from_value(value).map_err(|e| failed(e.to_string()))?;
        let classes = self.config.classes;
        if file.num_classes.is_some_and(|expected| expected != classes) {
            let expected = file.num_classes.unwrap_or_default();
            let weights = self.weights.path().display();
            return Err(failed(format!(
                "expected {expected} classes, file has {classes}: fc.weight in {weights}"
            )));
        }
        if let Ok(expected) = Config::by_name(&architecture) {
            let Config { cardinality, base_width, depths, block, .. } = &self.config;
            let found = (*cardinality, *base_width, depths, *block);
            if (expected.cardinality, expected.base_width, &expected.depths, expected.block) != found {
                let kind = if *block == BlockKind::Basic { "basic blocks" } else { "blocks" };
                return Err(failed(format!(
                    "expected {architecture}, file has {cardinality}×{base_width}d in {kind} {depths:?}: {}",
                    self.weights.path().display()
                )));
            }
        }
        let settings = file.pretrained_cfg.unwrap_or(file.flat);
        if let Some(mode) = settings.crop_mode.filter(|mode| mode != "center") {
            return Err(failed(format!("expected crop_mode center, got {mode}")));
        }
        let usual = self.preprocessing.clone();
        let size = settings.input_size.map_or(usual.size, |(_, height, width)| (height, width));
        let preprocessing = Preprocessing {
            size,
            crop_pct: settings.crop_pct.unwrap_or(usual.crop_pct),
            interpolation: settings.interpolation.unwrap_or(usual.interpolation),
            mean: settings.mean.unwrap_or(usual.mean),
            std: settings.std.unwrap_or(usual.std),
        };
        if !(preprocessing.crop_pct > 0.0 && preprocessing.crop_pct <= 1.0) {
            return Err(failed(format!(
                "crop_pct must be above 0 and at most 1, got {}",
                preprocessing.crop_pct
            )));
        }
        let names = file.label_names.or(settings.label_names).or(file.labels);
        let descriptions = file.label_descriptions.or(settings.label_descriptions).unwrap_or_default();
        if let Some(names) = &names
            && names.len() != classes
        {
            return Err(failed(format!("expected {classes} label_names, got {}", names.len())));
        }
        let described = |name: String| descriptions.get(&name).cloned().unwrap_or(name);
        self.labels = names.map(|names| names.into_iter().map(described).collect());
        self.preprocessing = preprocessing;
        Ok(())
    }
}
