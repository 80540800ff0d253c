//! A file of weights, and where its tensors lie in it.

use candle_core::DType;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// Where a tensor lies in the file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The type of its elements; for types that weights cannot have, what they are, such as `integers`.
    pub(super) dtype: Result<DType, &'static str>,
    pub(super) shape: Vec<usize>,
    /// The strides in elements; `None` if the tensor is contiguous.
    pub(super) strides: Option<Vec<usize>>,
    /// The file that it is in, if the weights have several.
    pub(super) file: usize,
    /// The offset of its first byte in the file.
    pub(super) start: u64,
    /// The number of bytes per element.
    pub(super) bytes: usize,
}

/// The tensors of a file by name. An error, which is a text, says why one cannot be read; it matters only if
/// that one is a weight.
pub(super) type Entries = BTreeMap<String, Result<Entry, String>>;

/// The contents of a file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) entries: Entries,
    /// The metadata of a safetensors header.
    pub(super) metadata: BTreeMap<String, String>,
    /// The first class, as `module.name`, whose objects are in the file and were not read.
    pub(super) foreign: Option<String>,
    /// What a user has to know of the file, one line each, without its name.
    pub(super) notes: Vec<String>,
}

impl Entry {
    /// The number of elements.
    pub(super) fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements as bytes, in row-major order. The strides are known to stay within `usize`.
    ///
    /// # Errors
    /// A text, if they do not lie within the file or it cannot be read.
    pub(super) fn read(&self, file: &mut FileBytes) -> Result<Vec<u8>, String> {
        let contiguous = contiguous_strides(&self.shape);
        let strides = self.strides.as_ref().unwrap_or(&contiguous);
        let last: usize =
            self.shape.iter().zip(strides).map(|(&dim, &stride)| dim.saturating_sub(1) * stride).sum();
        let span = if self.count() == 0 { 0 } else { (last + 1) * self.bytes };
        let bytes = file.read(self.start, span)?;
        Ok(match strides == &contiguous || self.count() == 0 {
            true => bytes,
            false => gather(&bytes, &self.shape, strides, self.bytes),
        })
    }
}

/// A file and its length.
#[derive(Debug)]
pub(super) struct FileBytes {
    pub(super) file: BufReader<File>,
    pub(super) len: u64,
}

impl FileBytes {
    /// Opens a file.
    ///
    /// # Errors
    /// A text, if it cannot be opened or is a folder.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        let data = file.metadata().map_err(|e| e.to_string())?;
        if data.is_dir() {
            return Err("a folder, expected a file of weights".into());
        }
        Ok(FileBytes { file: BufReader::new(file), len: data.len() })
    }

    /// Reads `len` bytes from offset `start`, after a check that they lie within the file.
    pub(super) fn read(&mut self, start: u64, len: usize) -> Result<Vec<u8>, String> {
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

    /// The file, to be read from offset `start`.
    pub(super) fn read_from(&mut self, start: u64) -> Result<&mut BufReader<File>, String> {
        self.file.seek(SeekFrom::Start(start)).map_err(|e| e.to_string())?;
        Ok(&mut self.file)
    }
}

fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

/// The elements, of `size` bytes each, of a strided tensor in row-major order.
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
