//! Checkpoints: one safetensors file with everything a run needs to go on.

use crate::metrics::Metrics;
use crate::{Error, Result};
use candle_core::{Device, Tensor, Var};
use resnext_model::{Form, Weights, convert};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Where a run is. With the seed, which the recipe holds, this is all the random state there is:
/// batches are a function of seed, epoch and index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Whole epochs done.
    pub epoch: usize,
    /// Batches done of the next epoch.
    pub batch: usize,
    /// Optimizer steps done: the position in the schedule.
    pub step: usize,
    /// The best test top-1 so far.
    pub best_top1: f64,
    /// What was counted in the unfinished epoch.
    pub partial: Metrics,
}

/// A run at one moment.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Parameters and running statistics, under their torchvision names.
    pub tensors: BTreeMap<String, Tensor>,
    /// Momentum buffers by parameter name.
    pub momentum: BTreeMap<String, Tensor>,
    /// Averages of the parameters by name; empty where none are kept.
    pub average: BTreeMap<String, Tensor>,
    /// Where the run is.
    pub progress: Progress,
    /// The network's configuration.
    pub model: resnext_model::Config,
    /// The caller's own description of the run, such as its recipe.
    pub recipe: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    progress: Progress,
    model: resnext_model::Config,
    recipe: serde_json::Value,
}

const VERSION: u32 = 1;
/// The key of our entry in the file's metadata.
const HEADER: &str = "resnext-checkpoint";
const MOMENTUM: &str = "optimizer.momentum.";
const AVERAGE: &str = "optimizer.average.";

impl Checkpoint {
    /// Writes the file beside `path`, makes sure that it is on the disk, and renames it: a kill at any
    /// moment leaves the last good one.
    ///
    /// # Errors
    /// If the folder can't be written or the disk is full; `path` is then as it was.
    pub fn save(&self, path: &Path) -> Result<()> {
        let header = Header {
            version: VERSION,
            progress: self.progress.clone(),
            model: self.model.clone(),
            recipe: self.recipe.clone(),
        };
        let header = serde_json::to_string(&header).map_err(|e| Error::Config(e.to_string()))?;
        let named = |prefix: &'static str, tensors: &'_ BTreeMap<String, Tensor>| -> Vec<(String, Tensor)> {
            tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())).collect()
        };
        let groups = [("", &self.tensors), (MOMENTUM, &self.momentum), (AVERAGE, &self.average)];
        let tensors = groups.into_iter().flat_map(|(prefix, tensors)| named(prefix, tensors));
        let metadata = HashMap::from([(HEADER.to_string(), header)]);
        let bytes =
            safetensors::serialize(tensors, Some(metadata)).map_err(|e| Error::Config(e.to_string()))?;
        replace_file(path, &bytes)
    }

    /// Writes the weights alone, for programs that expect no optimizer's state, such as PyTorch's `load_state_dict`; `path` is replaced as by [`Checkpoint::save`].
    ///
    /// # Errors
    /// If the folder can't be written or the disk is full; `path` is then as it was.
    pub fn save_weights(&self, path: &Path) -> Result<()> {
        let bytes = safetensors::serialize(self.weights(), None).map_err(|e| Error::Config(e.to_string()))?;
        replace_file(path, &bytes)
    }

    /// The weights the run is judged by: their averages where it keeps them, as [`Weights`] gives.
    pub fn weights(&self) -> &BTreeMap<String, Tensor> {
        if self.average.is_empty() { &self.tensors } else { &self.average }
    }

    /// The same run with its blocks in another form (figure 3): weights, running statistics and momentum
    /// are rearranged, nothing is computed.
    ///
    /// # Errors
    /// If the tensors are not those of the form that the configuration names.
    pub fn into_form(mut self, form: Form) -> Result<Self> {
        self.tensors = convert::network(&self.tensors, &self.model, form)?;
        self.momentum = convert::network(&self.momentum, &self.model, form)?;
        if !self.average.is_empty() {
            self.average = convert::network(&self.average, &self.model, form)?;
        }
        self.model.form = form;
        Ok(self)
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// If the file can't be read, is cut short, or is no checkpoint of this program.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let bytes = read(path)?;
        let not = |reason: String| Error::NotACheckpoint { path: path.to_path_buf(), reason };
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| format_error(path, &e))?;
        let header = metadata.metadata().as_ref().and_then(|m| m.get(HEADER));
        let header = header.ok_or_else(|| not("a plain weights file, with no training state".into()))?;
        let header: Header = serde_json::from_str(header).map_err(|e| not(format!("its header says {e}")))?;
        if header.version != VERSION {
            return Err(not(format!("expected format version {VERSION}, got {}", header.version)));
        }
        let mut tensors = parse(path, &bytes, device)?;
        let (momentum, average) = (take(&mut tensors, MOMENTUM), take(&mut tensors, AVERAGE));
        Ok(Checkpoint {
            tensors,
            momentum,
            average,
            progress: header.progress,
            model: header.model,
            recipe: header.recipe,
        })
    }
}

/// The recipe of the run that wrote these weights, if they are of a checkpoint.
pub fn recipe_of(weights: &Weights) -> Option<serde_json::Value> {
    let header: Header = serde_json::from_str(weights.metadata().get(HEADER)?).ok()?;
    Some(header.recipe)
}

/// Takes what begins with `prefix` out of `tensors`, and the prefix off its names.
fn take(tensors: &mut BTreeMap<String, Tensor>, prefix: &str) -> BTreeMap<String, Tensor> {
    let (own, rest): (BTreeMap<_, _>, _) =
        std::mem::take(tensors).into_iter().partition(|(name, _)| name.starts_with(prefix));
    *tensors = rest;
    own.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_string(), tensor)).collect()
}

/// Copies `tensors`, which came from `source`, into `variables`. Everything is checked before
/// anything is changed; `num_batches_tracked`, which PyTorch saves, is passed over.
///
/// # Errors
/// If tensors are missing, unexpected or of the wrong shape, which the error lists.
pub fn assign(variables: &[(String, Var)], tensors: &BTreeMap<String, Tensor>, source: &Path) -> Result<()> {
    let mut problems = Vec::new();
    let mut list = |what: &str, names: Vec<String>| {
        if !names.is_empty() {
            let more = if names.len() > 10 { ", …" } else { "" };
            problems.push(format!(
                "{} {what}: {}{more}",
                names.len(),
                names[..names.len().min(10)].join(", ")
            ));
        }
    };
    let shapes = variables.iter().filter_map(|(name, var)| {
        let tensor = tensors.get(name)?;
        (tensor.dims() != var.dims())
            .then(|| format!("expected shape {:?}, file has {:?}: {name}", var.dims(), tensor.dims()))
    });
    list("of the wrong shape", shapes.collect());
    let missing = variables.iter().filter(|(name, _)| !tensors.contains_key(name));
    list("missing", missing.map(|(name, _)| name.clone()).collect());
    let known =
        |name: &str| name.ends_with("num_batches_tracked") || variables.iter().any(|(n, _)| n == name);
    list("unexpected", tensors.keys().filter(|name| !known(name)).cloned().collect());
    if !problems.is_empty() {
        return Err(Error::Mismatch { path: source.to_path_buf(), problem: problems.join("; ") });
    }
    for (name, var) in variables {
        var.set(&tensors[name].to_dtype(var.dtype())?)?;
    }
    Ok(())
}

/// Replaces the file at `path` as a whole or not at all.
///
/// # Errors
/// If the folder can't be written or the disk is full; `path` is then as it was.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        // The rename itself is safe once its folder is on the disk.
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| {
        // Whatever is there of it is of no use; that it may not be there is no further error.
        let _ = std::fs::remove_file(&beside);
        Error::Io { action: "write", path: path.to_path_buf(), source }
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.to_path_buf(), source })
}

fn parse(path: &Path, bytes: &[u8], device: &Device) -> Result<BTreeMap<String, Tensor>> {
    // Parsed once here for a clear error, and again by candle, which makes the tensors.
    SafeTensors::deserialize(bytes).map_err(|e| format_error(path, &e))?;
    Ok(candle_core::safetensors::load_buffer(bytes, device)?.into_iter().collect())
}

fn format_error(path: &Path, error: &safetensors::SafeTensorError) -> Error {
    Error::Format { path: path.to_path_buf(), reason: error.to_string() }
}
