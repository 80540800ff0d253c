//! Weights in a file: safetensors or PyTorch's own, under the names of torchvision or timm.

mod check;
mod file;
mod format;
mod infer;
mod names;
mod pickle;
mod pytorch;
mod safetensors;

use crate::config::{Config, Form};
use crate::convert;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use file::{Entry, FileBytes, faults, gather, strides_of};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The tensors of a weights file, each read when it is asked for, so that no more of the file than a tensor is
/// in memory.
///
/// The format is told by the file's first bytes: safetensors; zip archives of `torch.save`; and the format
/// that torch.save had before PyTorch 1.6. Pickles are read as data: one that asks for any function but those
/// that tensors are made with is refused. Prefixes that wrappers leave in every name (`module.`), and the names
/// of other programs' last layer, are taken away. Of this project's checkpoints it is the averages, where they were
/// kept, and no other state of the optimizer.
#[derive(Debug, Clone)]
pub struct Weights {
    path: PathBuf,
    file: Arc<Mutex<FileBytes>>,
    entries: Arc<BTreeMap<String, Entry>>,
    metadata: Arc<BTreeMap<String, String>>,
}

/// Where the last layer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// The file, like all else.
    Loaded,
    /// New values: the classes are others than those of the file, which need not have a last layer.
    Fresh,
}

impl Weights {
    /// Reads what the file at `path` says it holds.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be read, is cut short, lies about its lengths, is of another format, or
    /// is a pickle that asks for code.
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
            entries: Arc::new(names::ours(entries)),
            metadata: Arc::new(metadata),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a safetensors header says beside its tensors: this project's checkpoints describe their run there.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names, as this project has them, and shapes.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
    }

    /// One tensor in the type it has in the file.
    ///
    /// # Errors
    /// If there is none of this name, it is not of a floating type, or it holds NaN or infinity; as a variance,
    /// a negative number.
    pub fn tensor(&self, name: &str, device: &Device) -> Result<Tensor> {
        let failed = |problem: String| Error::Weight { path: self.path.clone(), name: name.into(), problem };
        let entry = self.entries.get(name).ok_or_else(|| failed("no such weight".into()))?;
        let dtype =
            entry.dtype.ok_or_else(|| failed("expected a floating type, file has integers".into()))?;
        let contiguous = strides_of(&entry.shape);
        let strides = entry.strides.as_ref().unwrap_or(&contiguous);
        let count: usize = entry.shape.iter().product();
        let last: usize =
            entry.shape.iter().zip(strides).map(|(&dim, &stride)| dim.saturating_sub(1) * stride).sum();
        let span = if count == 0 { 0 } else { (last + 1) * entry.bytes };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = file.read(entry.start, span).map_err(failed)?;
        drop(file);
        if strides != &contiguous && count > 0 {
            bytes = gather(&bytes, &entry.shape, strides, entry.bytes);
        }
        let tensor = Tensor::from_raw_buffer(&bytes, dtype, &entry.shape, device)?;
        let faults = faults(&bytes, dtype, name.ends_with("running_var"));
        if faults > 0 {
            let what = if name.ends_with("running_var") { "negative or no" } else { "no" };
            return Err(failed(format!("{faults} of {count} values are {what} finite numbers")));
        }
        Ok(tensor)
    }

    /// All weights as f32 in the form `to`, once they are known to be those of a network of `config`.
    ///
    /// # Errors
    /// Those of [`check`](Self::check) and [`tensor`](Self::tensor), and if the network doesn't have the form.
    pub fn in_form(&self, config: &Config, to: Form, device: &Device) -> Result<convert::Tensors> {
        self.check(config, Head::Loaded)?;
        let read = |name: &String| {
            let tensor = self.tensor(name, device)?.to_dtype(DType::F32)?;
            Ok((name.clone(), tensor))
        };
        convert::network(&self.entries.keys().map(read).collect::<Result<_>>()?, config, to)
    }

    /// A builder that reads each weight when a network asks for it, in `dtype` on `device`.
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

/// candle's own error type is all that a builder can give.
fn as_candle(error: Error) -> candle_core::Error {
    candle_core::Error::Msg(error.to_string())
}
