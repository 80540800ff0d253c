//! Weights in a file: safetensors or PyTorch's own format, under the names of torchvision or timm.

mod baseline;
mod check;
mod file;
mod finite;
mod format;
mod globals;
mod infer;
mod locate;
mod mismatch;
mod pickle;
mod pickled_tensors;
mod pytorch;
mod safetensors;
mod sharded;

pub use mismatch::weights_mismatch;
#[cfg(feature = "hub")]
pub(crate) use sharded::shards;
pub(crate) use sharded::some_shard;

use crate::architecture::Architecture;
use crate::baselines::Baseline;
use crate::config::{Config, Form};
use crate::convert::{self, Tensors};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use file::{Contents, Entry, FileBytes};
use finite::count_invalid;
use mismatch::shown;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The tensors of a weights file. Each is read when it is requested, so that no more than one of them is in
/// memory.
///
/// The first bytes of the file tell its format: safetensors, zip archives of `torch.save`, or the format that
/// `torch.save` had before PyTorch 1.6. Weights in several safetensors files are opened by their
/// `model.safetensors.index.json`. Pickles are read as data and nothing in them is called: objects beside the
/// weights are passed over, and a pickle made to run a program is refused.
///
/// Names are torchvision's, or timm's for Inceptions. The network is found wherever its layers are, under keys such as
/// `state_dict` and
/// prefixes such as `module.` or `backbone.`, and its last layer under any name; [`notes`](Self::notes) say
/// what was chosen. Averaged weights (`model_ema`) are preferred to those that they average, as programs are
/// judged by them; a file with two networks of which neither is an average of the other is refused.
#[derive(Debug, Clone)]
pub struct Weights {
    path: PathBuf,
    files: Arc<Vec<Mutex<FileBytes>>>,
    entries: Arc<BTreeMap<String, Entry>>,
    /// The baseline that they are of; `None` if of a ResNet, or of no network that is known.
    baseline: Option<Baseline>,
    metadata: Arc<BTreeMap<String, String>>,
    /// The names of tensors that are not used.
    left_out: Arc<Vec<String>>,
    notes: Arc<Vec<String>>,
    /// The first class whose objects in the file were not read.
    foreign: Option<String>,
}

/// Where the weights of the last layer come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// From the file, like all others.
    Loaded,
    /// They keep their initial values, because the network is for other classes than the file's. The file
    /// need not have a last layer.
    Fresh,
}

impl Weights {
    /// How the names of an optimizer's tensors start in a checkpoint. These tensors are not weights, and are
    /// left out.
    pub const OPTIMIZER_PREFIX: &str = locate::OPTIMIZER_PREFIX;

    /// How the names of averaged weights start in a checkpoint. They take the place of the weights
    /// themselves.
    pub const AVERAGE_PREFIX: &str = locate::AVERAGE_PREFIX;

    /// Opens the file at `path`, and reads the names and shapes of its tensors. The path may be that of the
    /// index, `*.index.json`, of weights in several files beside it.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, is cut short, gives wrong lengths, has another format, is a
    /// pickle that would run code, or holds several networks.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |reason: String| Error::File { path: path.to_path_buf(), reason };
        let (mut files, Contents { entries, metadata, foreign, mut notes }) = match sharded::is_index(path) {
            true => sharded::open(path).map_err(failed)?,
            false => {
                let mut file = FileBytes::open(path).map_err(failed)?;
                sharded::check_alone(path).map_err(failed)?;
                let contents = format::contents(&mut file).map_err(failed)?;
                (vec![file], contents)
            }
        };
        let mut same_bytes = |one: &Entry, other: &Entry| {
            let mut bytes = |entry: &Entry| entry.read(files.get_mut(entry.file)?).ok();
            bytes(one).is_some_and(|one| bytes(other) == Some(one))
        };
        let located = locate::locate(entries, &mut same_bytes).map_err(failed)?;
        notes.extend(located.notes);
        Ok(Weights {
            path: path.to_path_buf(),
            files: Arc::new(files.into_iter().map(Mutex::new).collect()),
            entries: Arc::new(located.entries),
            baseline: located.baseline,
            metadata: Arc::new(metadata),
            left_out: Arc::new(located.left_out),
            notes: Arc::new(notes),
            foreign,
        })
    }

    /// Notes for the user: which tensors of the file were chosen and which left out, where that is not obvious. Each is one
    /// line, without the file's name.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The names of up to ten tensors of the file, of which those that are not used come first.
    fn some_names(&self) -> String {
        let all = self.left_out.iter().chain(self.entries.keys());
        let names: Vec<String> = all.clone().take(10).map(|name| shown(name)).collect();
        let count = all.count();
        if count == 0 {
            return "no tensors".into();
        }
        let more = if count > names.len() { format!(", … ({count} in all)") } else { String::new() };
        let foreign = self.foreign.as_ref().map(|class| {
            let class: String = class.chars().filter(|c| !c.is_control()).take(100).collect();
            format!("; objects of {class} are not read")
        });
        format!("{}{more}{}", names.join(", "), foreign.unwrap_or_default())
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata of a safetensors header. Checkpoints of this project describe their run there.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The names, which are torchvision's, and shapes of all weights.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
    }

    /// Reads one tensor, in the type that it has in the file.
    ///
    /// # Errors
    /// [`Error::Weight`] if there is no tensor of this name, it is not of a floating type, it holds NaN or
    /// infinity, or it is a variance and holds a negative number.
    pub fn tensor(&self, name: &str, device: &Device) -> Result<Tensor> {
        let failed = |problem: String| Error::Weight { path: self.path.clone(), name: name.into(), problem };
        let entry = self.entries.get(name).ok_or_else(|| failed("no such weight".into()))?;
        let dtype =
            entry.dtype.map_err(|what| failed(format!("expected a floating type, file has {what}")))?;
        let bytes = {
            let file = self.files.get(entry.file).ok_or_else(|| failed("its file is not open".into()))?;
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            entry.read(&mut file).map_err(failed)?
        };
        let variance = name.ends_with("running_var");
        let invalid = count_invalid(&bytes, dtype, variance);
        if invalid > 0 {
            let what = if variance { "negative or not finite" } else { "not finite" };
            return Err(failed(format!("{invalid} of {} values are {what}", entry.count())));
        }
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &entry.shape, device)?)
    }

    /// All weights as f32 in the form `to`, after a check that they are those of a network of `config`.
    ///
    /// # Errors
    /// The errors of [`check`](Self::check) and [`tensor`](Self::tensor), and if the network does not have the
    /// form.
    pub fn in_form(&self, config: &Config, to: Form, device: &Device) -> Result<Tensors> {
        convert::network(&self.all(config, device)?, config, to)
    }

    /// All weights as f32, after a check that they are those of `network`.
    ///
    /// # Errors
    /// The errors of [`check`](Self::check) and [`tensor`](Self::tensor).
    pub fn all(&self, network: impl Into<Architecture>, device: &Device) -> Result<Tensors> {
        self.check(network, Head::Loaded)?;
        let read = |name: &String| {
            let tensor = self.tensor(name, device)?.to_dtype(DType::F32)?;
            Ok((name.clone(), tensor))
        };
        self.entries.keys().map(read).collect()
    }

    /// A builder for a network, which reads each weight when the network requests it, as `dtype` on `device`.
    pub fn builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }
}

impl SimpleBackend for Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        if let Some(entry) = self.entries.get(name)
            && entry.shape != shape.dims()
        {
            let problem = format!("expected shape {:?}, file has {:?}", shape.dims(), entry.shape);
            return Err(as_candle(Error::Weight { path: self.path.clone(), name: name.into(), problem }));
        }
        self.get_unchecked(name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.tensor(name, device).map_err(as_candle)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }
}

/// A builder can only return candle's own error type.
fn as_candle(error: Error) -> candle_core::Error {
    candle_core::Error::Msg(error.to_string())
}
