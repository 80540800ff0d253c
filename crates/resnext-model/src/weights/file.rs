//! A file of weights and the places of its tensors.

use candle_core::DType;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

/// Where a tensor lies in the file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// None for types that weights can't have.
    pub(super) dtype: Option<DType>,
    pub(super) shape: Vec<usize>,
    /// In elements; none if the tensor is contiguous.
    pub(super) strides: Option<Vec<usize>>,
    /// Its first byte in the file.
    pub(super) start: u64,
    /// Of an element.
    pub(super) bytes: usize,
}

/// A file and its length.
#[derive(Debug)]
pub(super) struct FileBytes {
    pub(super) file: BufReader<File>,
    pub(super) len: u64,
}

impl FileBytes {
    /// `len` bytes, which must lie within the file.
    pub(super) fn read(&mut self, start: u64, len: usize) -> std::result::Result<Vec<u8>, String> {
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

    pub(super) fn read_from(&mut self, start: u64) -> std::result::Result<&mut BufReader<File>, String> {
        self.file.seek(SeekFrom::Start(start)).map_err(|e| e.to_string())?;
        Ok(&mut self.file)
    }
}

pub(super) type Tables = (BTreeMap<String, Entry>, BTreeMap<String, String>);

/// The strides of a contiguous tensor.
pub(super) fn strides_of(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

/// The elements of a strided tensor in order.
pub(super) fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
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
pub(super) fn faults(bytes: &[u8], dtype: DType, non_negative: bool) -> usize {
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
