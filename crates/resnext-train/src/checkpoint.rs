//! Checkpoints: one safetensors file with everything that a run needs to continue.

use crate::error::{Error, Result};
use crate::metrics::Metrics;
use candle_core::{Device, Tensor, Var};
use resnext_model::{Architecture, Config, Form, Weights, convert, weights_mismatch};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// The position of a run. There is no further random state: batches depend only on the recipe's seed, the
/// epoch and the index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Completed epochs.
    pub epoch: usize,
    /// Completed batches of the current epoch.
    pub batch: usize,
    /// Completed images of the current epoch: where its order continues, whatever the batch size.
    #[serde(default)]
    pub images: usize,
    /// Completed optimizer steps.
    pub step: usize,
    /// The optimizer steps that were complete when the average of the weights began.
    #[serde(default)]
    pub average_from: usize,
    /// The best top-1 accuracy on the test set so far, from 0 to 1.
    pub best_top1: f64,
    /// The number of complete epochs when it was reached.
    #[serde(default)]
    pub best_epoch: usize,
    /// Training metrics of the unfinished epoch.
    pub partial: Metrics,
    /// [`Data::fingerprint`](crate::Data::fingerprint) of the training set; `None` before the first step.
    #[serde(default)]
    pub data: Option<String>,
}

/// The state of a run at one moment.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Parameters and running statistics by their torchvision names.
    pub tensors: BTreeMap<String, Tensor>,
    /// The optimizer's running means of gradients by parameter name: SGD's momentum.
    pub momentum: BTreeMap<String, Tensor>,
    /// The running means of squared gradients by parameter name; empty for SGD.
    pub squares: BTreeMap<String, Tensor>,
    /// Exponential moving averages of the parameters by name; empty if the run keeps none.
    pub average: BTreeMap<String, Tensor>,
    /// The position of the run.
    pub progress: Progress,
    /// The network.
    pub model: Architecture,
    /// The caller's description of the run, such as its recipe; stored unchanged.
    pub recipe: serde_json::Value,
    /// Further entries of the file's metadata, for programs that use the weights alone; stored unchanged.
    pub metadata: BTreeMap<String, String>,
}

/// The JSON in the file's metadata.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    progress: Progress,
    model: Architecture,
    recipe: serde_json::Value,
}

const VERSION: u32 = 1;
/// The key of [`Header`] in the file's metadata.
const HEADER: &str = "resnext-checkpoint";
/// It starts with [`Weights::OPTIMIZER_PREFIX`], so that readers of weights leave momentum buffers out.
const MOMENTUM: &str = "optimizer.momentum.";
const SQUARES: &str = "optimizer.square.";

impl Checkpoint {
    /// Replaces the file at `path` as [`replace_file`] does, so that a run killed at any moment leaves its
    /// last complete checkpoint.
    ///
    /// # Errors
    /// If the folder is not writable or the disk is full; `path` is then unchanged.
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
        let groups = [
            ("", &self.tensors),
            (MOMENTUM, &self.momentum),
            (SQUARES, &self.squares),
            (Weights::AVERAGE_PREFIX, &self.average),
        ];
        let tensors = groups.into_iter().flat_map(|(prefix, tensors)| named(prefix, tensors));
        let mut metadata = self.own_metadata();
        metadata.insert(HEADER.to_string(), header);
        let mut bytes =
            safetensors::serialize(tensors, Some(metadata)).map_err(|e| Error::Config(e.to_string()))?;
        order_metadata(&mut bytes);
        replace_file(path, &bytes)
    }

    /// Replaces the file at `path` with [`Self::weights`] alone, for programs that expect no optimizer state,
    /// such as PyTorch's `load_state_dict`.
    ///
    /// # Errors
    /// If the folder is not writable or the disk is full; `path` is then unchanged.
    pub fn save_weights(&self, path: &Path) -> Result<()> {
        let mut bytes = safetensors::serialize(self.weights(), Some(self.own_metadata()))
            .map_err(|e| Error::Config(e.to_string()))?;
        order_metadata(&mut bytes);
        replace_file(path, &bytes)
    }

    /// The metadata of a file without the run's state.
    fn own_metadata(&self) -> HashMap<String, String> {
        self.metadata.clone().into_iter().filter(|(key, _)| key != HEADER).collect()
    }

    /// The weights that the run is evaluated with: their averages if it keeps them. [`Weights`] reads the
    /// same ones from the file.
    pub fn weights(&self) -> &BTreeMap<String, Tensor> {
        if self.average.is_empty() { &self.tensors } else { &self.average }
    }

    /// The same run with its blocks in another form of the paper's figure 3. Weights, running statistics and
    /// momentum are rearranged without arithmetic.
    ///
    /// # Errors
    /// If the network is no ResNet or ResNeXt, or the tensors do not match the form that the configuration names.
    pub fn into_form(mut self, form: Form) -> Result<Self> {
        let config = self.model.config()?.clone();
        self.tensors = convert::network(&self.tensors, &config, form)?;
        self.momentum = convert::network(&self.momentum, &config, form)?;
        for state in [&mut self.squares, &mut self.average] {
            if !state.is_empty() {
                *state = convert::network(state, &config, form)?;
            }
        }
        self.model = Config { form, ..config }.into();
        Ok(self)
    }

    /// Reads a checkpoint, with its tensors on `device`.
    ///
    /// # Errors
    /// If the file cannot be read, is truncated, or was not written by [`Checkpoint::save`].
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
        let others = metadata.metadata().iter().flatten().filter(|(key, _)| *key != HEADER);
        let mut group = |prefix| take(&mut tensors, prefix);
        let (momentum, squares) = (group(MOMENTUM), group(SQUARES));
        let average = group(Weights::AVERAGE_PREFIX);
        Ok(Checkpoint {
            tensors,
            momentum,
            squares,
            average,
            progress: header.progress,
            model: header.model,
            recipe: header.recipe,
            metadata: others.map(|(key, value)| (key.clone(), value.clone())).collect(),
        })
    }
}

/// The recipe of the run that wrote these weights, if they come from a checkpoint.
pub fn recipe_of(weights: &Weights) -> Option<serde_json::Value> {
    let header: Header = serde_json::from_str(weights.metadata().get(HEADER)?).ok()?;
    Some(header.recipe)
}

/// Moves the tensors whose names begin with `prefix` out of `tensors`, and strips the prefix.
fn take(tensors: &mut BTreeMap<String, Tensor>, prefix: &str) -> BTreeMap<String, Tensor> {
    let (own, rest): (BTreeMap<_, _>, _) =
        std::mem::take(tensors).into_iter().partition(|(name, _)| name.starts_with(prefix));
    *tensors = rest;
    own.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_string(), tensor)).collect()
}

/// Sorts the keys of a file's metadata, which come from a hash map, so that equal checkpoints are equal files.
fn order_metadata(bytes: &mut [u8]) {
    // Behind the length of the header.
    const BEFORE: &[u8] = br#"{"__metadata__":"#;
    let start = 8 + BEFORE.len();
    if bytes.get(8..start) != Some(BEFORE) {
        return;
    }
    let mut values =
        serde_json::Deserializer::from_slice(&bytes[start..]).into_iter::<BTreeMap<String, String>>();
    let Some(Ok(metadata)) = values.next() else { return };
    let end = start + values.byte_offset();
    if let Ok(sorted) = serde_json::to_string(&metadata)
        && sorted.len() == end - start
    {
        bytes[start..end].copy_from_slice(sorted.as_bytes());
    }
}

/// Copies `tensors`, read from `source`, into `variables` of the same names. Everything is checked before
/// anything is changed. PyTorch's `num_batches_tracked` is ignored.
///
/// # Errors
/// [`Error::Mismatch`], which lists missing and unexpected tensors and those of another shape.
pub fn assign(variables: &[(String, Var)], tensors: &BTreeMap<String, Tensor>, source: &Path) -> Result<()> {
    let required = variables.iter().map(|(name, var)| (name.as_str(), var.dims())).collect();
    let found = tensors.iter().filter(|(name, _)| !name.ends_with("num_batches_tracked"));
    let found = found.map(|(name, tensor)| (name.as_str(), tensor.dims())).collect();
    if let Some(problem) = weights_mismatch(&required, &found) {
        return Err(Error::Mismatch { path: source.to_path_buf(), problem });
    }
    for (name, var) in variables {
        var.set(&tensors[name].to_dtype(var.dtype())?)?;
    }
    Ok(())
}

/// Replaces the file at `path` completely or not at all: writes a temporary file next to it, syncs it to the
/// disk and renames it.
///
/// # Errors
/// If the folder is not writable or the disk is full; `path` is then unchanged.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        // The rename is durable once the folder is synced, too. Windows cannot open a folder to sync it.
        #[cfg(unix)]
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source: std::io::Error| {
        // An incomplete file is useless. It may not even exist, so an error here says nothing new.
        let _ = std::fs::remove_file(&beside);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let source = match folder {
            // The system would name the file as missing, which it is expected to be.
            Some(folder) if source.kind() == ErrorKind::NotFound && !folder.exists() => {
                std::io::Error::new(ErrorKind::NotFound, format!("no folder {}", folder.display()))
            }
            _ => source,
        };
        Error::Io { action: "write", path: path.to_path_buf(), source }
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.to_path_buf(), source })
}

fn parse(path: &Path, bytes: &[u8], device: &Device) -> Result<BTreeMap<String, Tensor>> {
    // Parse here for a clear error; candle parses again to build the tensors.
    SafeTensors::deserialize(bytes).map_err(|e| format_error(path, &e))?;
    Ok(candle_core::safetensors::load_buffer(bytes, device)?.into_iter().collect())
}

fn format_error(path: &Path, error: &safetensors::SafeTensorError) -> Error {
    Error::Format { path: path.to_path_buf(), reason: error.to_string() }
}
