//! The header of a safetensors file. Everything it says is checked.

use super::file::{Entry, FileBytes, Tables};
use candle_core::DType;
use safetensors::tensor::Metadata;
use std::collections::BTreeMap;

/// The most bytes that the format allows a header to have.
const HEADER_LIMIT: u64 = 100_000_000;

/// The length of the header in bytes, if a file of `len` bytes with these first bytes can be a safetensors
/// file.
pub(super) fn header_len(start: &[u8], len: u64) -> Option<u64> {
    let header = u64::from_le_bytes(start.get(..8)?.try_into().ok()?);
    (header <= HEADER_LIMIT && header <= len.checked_sub(8)? && start.get(8) == Some(&b'{')).then_some(header)
}

/// The tensors of the file, and the metadata of its header, where programs describe themselves.
pub(super) fn entries(file: &mut FileBytes) -> Result<Tables, String> {
    if file.len < 8 {
        return Err(format!("expected a header's length in 8 bytes, the file has {}", file.len));
    }
    let start = file.read(0, 8)?;
    let header = u64::from_le_bytes(start.try_into().map_err(|_| "it is cut short")?);
    if header > file.len - 8 || header > HEADER_LIMIT {
        return Err(format!("its header says {header} bytes, the file has {}", file.len));
    }
    let bytes = file.read(8, header as usize)?;
    let metadata: Metadata = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let data = 8 + header;
    let end = metadata.tensors().values().map(|info| info.data_offsets.1).max().unwrap_or(0);
    if end as u64 != file.len - data {
        return Err(format!("its header says {end} bytes of data, it has {}", file.len - data));
    }
    let mut entries = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &dim| n.checked_mul(dim));
        let whole = start <= end && bits == (end - start).checked_mul(8) && end as u64 <= file.len - data;
        if !whole {
            let shape = &info.shape;
            return Err(format!(
                "its header says bytes {start} to {end} of shape {shape:?}, it has {} bytes of data: {name}",
                file.len - data
            ));
        }
        let dtype = match info.dtype {
            safetensors::Dtype::F16 => Some(DType::F16),
            safetensors::Dtype::BF16 => Some(DType::BF16),
            safetensors::Dtype::F32 => Some(DType::F32),
            safetensors::Dtype::F64 => Some(DType::F64),
            _ => None,
        };
        let bytes = info.dtype.bitsize().div_ceil(8);
        let entry =
            Entry { dtype, shape: info.shape.clone(), strides: None, start: data + start as u64, bytes };
        entries.insert(name, entry);
    }
    let described = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok((entries, described))
}
