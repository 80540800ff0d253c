//! A file of weights, and where its tensors lie in it.

use candle_core::DType;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

/// Where a tensor lies in the file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// `None` for types that weights cannot have, such as integers.
    pub(super) dtype: Option<DType>,
    pub(super) shape: Vec<usize>,
    /// The strides in elements; `None` if the tensor is contiguous.
    pub(super) strides: Option<Vec<usize>>,
    /// The offset of its first byte in the file.
    pub(super) start: u64,
    /// The number of bytes per element.
    pub(super) bytes: usize,
}

/// The tensors of a file by name, and the metadata of its header.
pub(super) type Tables = (BTreeMap<String, Entry>, BTreeMap<String, String>);

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
