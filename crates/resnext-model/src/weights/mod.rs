//! Weights in a file: safetensors or PyTorch's own format, under the names of torchvision or timm.

mod check;
mod file;
mod finite;
mod format;
mod infer;
mod mismatch;
mod names;
mod pickle;
mod pytorch;
mod safetensors;

pub use mismatch::weights_mismatch;

use crate::config::{Config, Form};
use crate::convert::{self, Tensors};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use file::{Entry, FileBytes};
use finite::count_invalid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The tensors of a weights file. Each is read when it is requested, so that no more than one of them is in
/// memory.
///
/// The first bytes of the file tell its format: safetensors, zip archives of `torch.save`, or the format that
/// `torch.save` had before PyTorch 1.6. Pickles are read as data: one that names any function beside those
/// that tensors are made with is refused.
///
/// Names are torchvision's: prefixes that wrappers leave in every name, such as `module.`, are removed, and
/// so are other programs' names of the last layer. A checkpoint of this project has the weights its run is
/// judged by: their averages, if it keeps some.
#[derive(Debug, Clone)]
pub struct Weights {
    path: PathBuf,
    file: Arc<Mutex<FileBytes>>,
    entries: Arc<BTreeMap<String, Entry>>,
    metadata: Arc<BTreeMap<String, String>>,
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
    pub const OPTIMIZER_PREFIX: &str = names::OPTIMIZER_PREFIX;

    /// How the names of averaged weights start in a checkpoint. They take the place of the weights
    /// themselves.
    pub const AVERAGE_PREFIX: &str = names::AVERAGE_PREFIX;

    /// Opens the file at `path`, and reads the names and shapes of its tensors.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, is cut short, gives wrong lengths, has another format, or
    /// is a pickle that would run code.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |reason: String| Error::File { path: path.to_path_buf(), reason };
        let file = File::open(path).map_err(|e| failed(e.to_string()))?;
        let data = file.metadata().map_err(|e| failed(e.to_string()))?;
        if data.is_dir() {
            return Err(failed("a folder, expected a file of weights".into()));
        }
        let mut file = FileBytes { file: BufReader::new(file), len: data.len() };
        let (entries, metadata) = format::tables(&mut file).map_err(failed)?;
        Ok(Weights {
            path: path.to_path_buf(),
            file: Arc::new(Mutex::new(file)),
            entries: Arc::new(names::torchvision_names(entries)),
            metadata: Arc::new(metadata),
        })
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
            entry.dtype.ok_or_else(|| failed("expected a floating type, file has integers".into()))?;
        let bytes = {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
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
    /// Those of [`check`](Self::check) and [`tensor`](Self::tensor), and if the network does not have the
    /// form.
    pub fn in_form(&self, config: &Config, to: Form, device: &Device) -> Result<Tensors> {
        self.check(config, Head::Loaded)?;
        let read = |name: &String| {
            let tensor = self.tensor(name, device)?.to_dtype(DType::F32)?;
            Ok((name.clone(), tensor))
        };
        convert::network(&self.entries.keys().map(read).collect::<Result<_>>()?, config, to)
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
