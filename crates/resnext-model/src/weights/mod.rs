//! Weights in a file: safetensors or PyTorch's own, under the names of torchvision or timm.

mod check;
mod infer;
mod names;
mod pickle;
mod pytorch;
mod safetensors;

use crate::{Config, Error, Form, Result, convert};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use check::Head;

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

/// Where a tensor lies in the file.
#[derive(Debug, Clone)]
struct Entry {
    /// None for types that weights can't have.
    dtype: Option<DType>,
    shape: Vec<usize>,
    /// In elements; none if the tensor is contiguous.
    strides: Option<Vec<usize>>,
    /// Its first byte in the file.
    start: u64,
    /// Of an element.
    bytes: usize,
}

/// A file and its length.
#[derive(Debug)]
struct FileBytes {
    file: BufReader<File>,
    len: u64,
}

impl FileBytes {
    /// `len` bytes, which must lie within the file.
    fn read(&mut self, start: u64, len: usize) -> std::result::Result<Vec<u8>, String> {
        if start.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Err(format!("it is cut short: {len} bytes wanted at {start}, the file has {}", self.len));
        }
        let mut bytes = vec![0; len];
        let mut read = || {
            self.file.seek(SeekFrom::Start(start))?;
            self.file.read_exact(&mut bytes)
        };
        read().map_err(|e: std::io::Error| e.to_string())?;
        Ok(bytes)
    }

    fn read_from(&mut self, start: u64) -> std::result::Result<&mut BufReader<File>, String> {
        self.file.seek(SeekFrom::Start(start)).map_err(|e| e.to_string())?;
        Ok(&mut self.file)
    }
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
        let (entries, metadata) = tables(&mut file).map_err(failed)?;
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

type Tables = (BTreeMap<String, Entry>, BTreeMap<String, String>);

fn tables(file: &mut FileBytes) -> std::result::Result<Tables, String> {
    let mut start = Vec::new();
    file.read_from(0)?.take(512).read_to_end(&mut start).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&start);
    let text = text.trim_start().to_ascii_lowercase();
    if safetensors::header_len(&start, file.len).is_some() {
        safetensors::entries(file).map_err(|reason| format!("not a whole safetensors file: {reason}"))
    } else if start.starts_with(&pytorch::ZIP) {
        Ok((pytorch::from_zip(file)?, BTreeMap::new()))
    } else if start.starts_with(&pytorch::LEGACY) {
        Ok((pytorch::from_legacy(file)?, BTreeMap::new()))
    } else if start.starts_with(&[0x80]) && matches!(start.get(1), Some(2..=5)) {
        // Whatever it is for, what it asks for comes first.
        let mut bytes = Vec::new();
        file.read_from(0)?.take(1 << 20).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        pickle::Pickle::read(&bytes)?;
        Err("a bare pickle, expected a file of torch.save".into())
    } else if text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml") {
        Err("a web page, not weights: the address it came from may ask for a login, or be that of a page"
            .into())
    } else if text.starts_with("version https://git-lfs") {
        Err("a Git LFS pointer, not the weights themselves: fetch them with `git lfs pull`".into())
    } else {
        safetensors::entries(file)
            .map_err(|reason| format!("not a whole safetensors file, and none of torch.save: {reason}"))
    }
}

/// The strides of a contiguous tensor.
fn strides_of(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

/// The elements of a strided tensor in order.
fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..count {
        out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < shape[d] {
                break;
            }
            at -= strides[d] * shape[d];
            index[d] = 0;
        }
    }
    out
}

/// How many values are not finite, or negative where that is not allowed.
fn faults(bytes: &[u8], dtype: DType, non_negative: bool) -> usize {
    // A value's exponent is all ones where it is no finite number; its first bit is its sign.
    macro_rules! count {
        ($bits:ty, $exponent:expr) => {{
            let sign: $bits = 1 << (<$bits>::BITS - 1);
            let wrong = |value: &[u8; size_of::<$bits>()]| {
                let bits = <$bits>::from_le_bytes(*value);
                let negative = non_negative & (bits > sign);
                usize::from((bits & $exponent == $exponent) | negative)
            };
            // A sum, of which compilers make vectors: this looks at each byte of a file.
            bytes.as_chunks().0.iter().map(wrong).sum()
        }};
    }
    match dtype {
        DType::F16 => count!(u16, 0x7c00),
        DType::BF16 => count!(u16, 0x7f80),
        DType::F64 => count!(u64, 0x7ff0 << 48),
        _ => count!(u32, 0x7f80 << 16),
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
