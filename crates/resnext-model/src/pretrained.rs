//! A trained network with all that its use requires: weights, configuration, preprocessing and class names.

use crate::architecture::Architecture;
use crate::baselines::Baseline;
use crate::config::{BlockKind, Config, Shortcut};
use crate::config_file::ConfigFile;
use crate::description::Description;
use crate::error::{Error, Result};
use crate::preprocessing::Preprocessing;
use crate::torchvision_files;
#[cfg(feature = "hub")]
use crate::weights::shards;
use crate::weights::some_shard;
use crate::weights::{Head, Weights};
use std::path::Path;

/// A trained network, from a file, a folder or a repository of the Hugging Face Hub.
#[derive(Debug, Clone)]
pub struct Pretrained {
    /// The path or repository that it comes from, for messages.
    pub source: String,
    /// The weights.
    pub weights: Weights,
    /// The network, inferred from the weights and checked against `config.json`.
    pub network: Architecture,
    /// How images are prepared for it.
    pub preprocessing: Preprocessing,
    /// Whether nothing says how pixels are normalised, so that [`Architecture::preprocessing`] was assumed.
    pub preprocessing_is_assumed: bool,
    /// The name of each class, if the file or `config.json` has them.
    pub labels: Option<Vec<String>>,
    /// Notes for the user: which of several networks in the file was chosen, and which tensors were left out. Each is one
    /// line, without the file's name.
    pub notes: Vec<String>,
}

/// Names of the weights file in a folder or repository. The first one that exists is used.
const WEIGHT_FILES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// The two of [`WEIGHT_FILES`] that messages name.
const USUAL_WEIGHT_FILES: &str = "model.safetensors and no pytorch_model.bin";
const CONFIG_FILE: &str = "config.json";
/// The most bytes of a configuration. The names of 21,000 classes take a megabyte.
const CONFIG_LIMIT: u64 = 16 << 20;

impl Pretrained {
    /// Opens a weights file, or a folder with `model.safetensors` or `pytorch_model.bin`, or with the index of
    /// one of them in several files. A `config.json` beside it is used if it is timm's.
    ///
    /// # Errors
    /// The errors of [`Weights::open`], [`Weights::network`] and [`Weights::check`]; [`Error::ConfigFile`] if
    /// `config.json` cannot be read or describes another network.
    pub fn open(path: &Path) -> Result<Self> {
        let (weights, folder) = if path.is_dir() {
            let found = WEIGHT_FILES.iter().map(|file| path.join(file)).find(|file| file.is_file());
            let reason = || match some_shard(path) {
                Some(shard) => {
                    format!(
                        "the folder has {shard}, but no index of such files, model.safetensors.index.json"
                    )
                }
                None => format!("the folder has no {USUAL_WEIGHT_FILES}"),
            };
            (found.ok_or_else(|| Error::File { path: path.to_path_buf(), reason: reason() })?, path)
        } else {
            (path.to_path_buf(), path.parent().unwrap_or(Path::new("")))
        };
        let config = folder.join(CONFIG_FILE);
        let config = Some(config).filter(|config| config.is_file());
        Pretrained::from_files(path.display().to_string(), &weights, config.as_deref())
    }

    /// Downloads a repository of the hub: `config.json`, and `model.safetensors` or, from older repositories,
    /// `pytorch_model.bin`, or all files that the index of either names.
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
        for file in WEIGHT_FILES {
            let Some(weights) = optional(file)? else { continue };
            if file.ends_with(".index.json") {
                let shards =
                    shards(&weights).map_err(|reason| Error::File { path: weights.clone(), reason })?;
                // All of the index's own version, which the newest need not be any more.
                let repo = repo.at_commit_of(&weights);
                shards.iter().try_for_each(|shard| hub.get(&repo, shard).map(drop))?;
            }
            return Pretrained::from_files(repo.to_string(), &weights, config.as_deref());
        }
        // Asks once more, for the error: it may be that the repository does not exist.
        let missing = hub.get(repo, WEIGHT_FILES[0]).map_err(|error| match error {
            HubError::NoFile { repo, .. } => HubError::NoFile { repo, file: USUAL_WEIGHT_FILES.into() },
            other => other,
        })?;
        Pretrained::from_files(repo.to_string(), &missing, config.as_deref())
    }

    fn from_files(source: String, weights: &Path, config_path: Option<&Path>) -> Result<Self> {
        let weights = Weights::open(weights)?;
        let network = weights.network()?;
        weights.check(&network, Head::Loaded)?;
        let mut pretrained = Pretrained {
            source,
            preprocessing: network.preprocessing(),
            preprocessing_is_assumed: true,
            labels: None,
            notes: weights.notes().to_vec(),
            weights,
            network,
        };
        pretrained.describe_by_itself()?;
        if let Some(path) = config_path {
            pretrained.describe_by_config(path)?;
        }
        Ok(pretrained)
    }

    /// Applies what the weights file says of itself, by its metadata or by the name that torchvision gave it.
    fn describe_by_itself(&mut self) -> Result<()> {
        if let Some(text) = self.weights.metadata().get(Description::KEY) {
            let failed = |reason: String| Error::File { path: self.weights.path().to_path_buf(), reason };
            let found = Description::from_json(text, &self.network).map_err(failed)?;
            (self.preprocessing, self.labels) = (found.preprocessing, found.class_names);
            // Weights without projections are the same with shortcuts and without.
            if let (Architecture::ResNext(found), Architecture::ResNext(config)) =
                (&found.network, &mut self.network)
                && found.shortcut == Shortcut::None
            {
                config.shortcut = Shortcut::None;
            }
            self.preprocessing_is_assumed = false;
        } else if let Some(preprocessing) =
            torchvision_files::preprocessing(self.weights.path(), &self.network)
        {
            self.preprocessing = preprocessing;
            self.preprocessing_is_assumed = false;
        }
        Ok(())
    }

    /// Applies what `config.json` says, after checks that it describes these weights.
    fn describe_by_config(&mut self, path: &Path) -> Result<()> {
        let failed = |problem: String| Error::ConfigFile { path: path.to_path_buf(), problem };
        let data = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?;
        if data.len() > CONFIG_LIMIT {
            return Err(failed(format!("it has {} bytes, expected at most {CONFIG_LIMIT}", data.len())));
        }
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        let Some(file) = ConfigFile::read(&text, &self.network).map_err(failed)? else {
            self.notes.push("config.json beside it is not timm's and is not used".into());
            return Ok(());
        };
        self.check_network(&file).map_err(failed)?;
        if let Architecture::ResNext(config) = &mut self.network
            && let Some(anti_alias) = file.anti_alias.filter(|&named| named != config.anti_alias)
        {
            if self.weights.metadata().contains_key(Description::KEY) {
                self.notes.push(format!(
                    "config.json overrides its anti-aliasing: {anti_alias} instead of {}",
                    config.anti_alias
                ));
            }
            config.anti_alias = anti_alias;
        }
        if !file.unknown.is_empty() {
            self.notes.push(format!("fields of config.json that are not known: {}", file.unknown.join(", ")));
        }
        let normalize = file.images.normalize();
        let preprocessing = file.images.over(&self.preprocessing).map_err(failed)?;
        if !self.preprocessing_is_assumed && preprocessing != self.preprocessing {
            self.notes.push(format!("config.json overrides its preprocessing of {}", self.preprocessing));
        }
        self.preprocessing = preprocessing;
        self.preprocessing_is_assumed &= !normalize;
        self.labels = file.labels.or(self.labels.take());
        Ok(())
    }

    /// Checks that the architecture, the number of classes and that of their names are those of the weights.
    fn check_network(&self, file: &ConfigFile) -> std::result::Result<(), String> {
        let weights = self.weights.path().display();
        let (classes, architecture) = (self.network.classes(), &file.architecture);
        let head = match &self.network {
            Architecture::ResNext(_) => "fc",
            Architecture::Baseline { baseline, .. } => baseline.head().0,
        };
        if let Some(expected) = file.classes.filter(|&expected| expected != classes) {
            return Err(format!(
                "expected {expected} classes, file has {classes}: {head}.weight in {weights}"
            ));
        }
        if let Some(names) = file.labels.as_ref().filter(|names| names.len() != classes) {
            return Err(format!("expected {classes} label_names, got {}", names.len()));
        }
        let Config { cardinality, base_width, depths, block, stem_convs, attention, .. } = match &self.network
        {
            Architecture::ResNext(config) => config,
            Architecture::Baseline { baseline, .. } => {
                let named = Baseline::by_name(architecture);
                return match named == Some(*baseline)
                    || named.is_none() && Config::by_name(architecture).is_err()
                {
                    true => Ok(()),
                    false => Err(format!("expected {architecture}, file has {}: {weights}", baseline.name())),
                };
            }
        };
        let Ok(expected) = Config::by_name(architecture) else { return Ok(()) };
        let found = (*cardinality, *base_width, depths, *block);
        if (expected.cardinality, expected.base_width, &expected.depths, expected.block) != found {
            let kind = if *block == BlockKind::Basic { "basic blocks" } else { "blocks" };
            return Err(format!(
                "expected {architecture}, file has {cardinality}×{base_width}d in {kind} {depths:?}: {weights}"
            ));
        }
        if (&expected.stem_convs, &expected.attention) != (stem_convs, attention) {
            return Err(format!(
                "expected {architecture}, with {} and {}; file has {stem_convs} and {attention}: {weights}",
                expected.stem_convs, expected.attention
            ));
        }
        Ok(())
    }
}
