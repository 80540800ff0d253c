//! The header of a safetensors file. Everything it says is checked.

use super::file::{Contents, Entries, Entry, FileBytes};
use crate::error::json_problem;
use candle_core::DType;
use safetensors::tensor::Metadata;

/// The most bytes that the format allows a header to have.
const HEADER_LIMIT: u64 = 100_000_000;

/// The length of the header in bytes, if a file of `len` bytes with these first bytes can be a safetensors
/// file.
pub(super) fn header_len(start: &[u8], len: u64) -> Option<u64> {
    let header = u64::from_le_bytes(start.get(..8)?.try_into().ok()?);
    (header <= HEADER_LIMIT && header <= len.checked_sub(8)? && start.get(8) == Some(&b'{')).then_some(header)
}

/// The tensors of the file, and the metadata of its header, where programs describe themselves.
pub(super) fn contents(file: &mut FileBytes) -> Result<Contents, String> {
    if file.len < 8 {
        return Err(format!("expected a header's length in 8 bytes, the file has {}", file.len));
    }
    let start = file.read(0, 8)?;
    let header = u64::from_le_bytes(start.try_into().map_err(|_| "it is cut short")?);
    if header > file.len - 8 || header > HEADER_LIMIT {
        return Err(format!("its header says {header} bytes, the file has {}", file.len));
    }
    let bytes = file.read(8, header as usize)?;
    let metadata: Metadata = serde_json::from_slice(&bytes).map_err(|e| json_problem(&e))?;
    let data = 8 + header;
    let end = metadata.tensors().values().map(|info| info.data_offsets.1).max().unwrap_or(0);
    if end as u64 != file.len - data {
        return Err(format!("its header says {end} bytes of data, it has {}", file.len - data));
    }
    let mut entries = Entries::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &dim| n.checked_mul(dim));
        let whole = start <= end && bits == (end - start).checked_mul(8) && end as u64 <= file.len - data;
        if !whole {
            let shape = &info.shape;
            return Err(format!(
                "its header says bytes {start} to {end} of shape {shape:?}, it has {} bytes of data: {}",
                file.len - data,
                name.escape_debug()
            ));
        }
        let dtype = match info.dtype {
            safetensors::Dtype::F16 => Ok(DType::F16),
            safetensors::Dtype::BF16 => Ok(DType::BF16),
            safetensors::Dtype::F32 => Ok(DType::F32),
            safetensors::Dtype::F64 => Ok(DType::F64),
            safetensors::Dtype::BOOL => Err("booleans"),
            safetensors::Dtype::C64 => Err("complex numbers"),
            safetensors::Dtype::U8
            | safetensors::Dtype::I8
            | safetensors::Dtype::I16
            | safetensors::Dtype::U16
            | safetensors::Dtype::I32
            | safetensors::Dtype::U32
            | safetensors::Dtype::I64
            | safetensors::Dtype::U64 => Err("integers"),
            _ => Err("floats of 8 bits or fewer"),
        };
        let bytes = info.dtype.bitsize().div_ceil(8);
        let (shape, start) = (info.shape.clone(), data + start as u64);
        entries.insert(name, Ok(Entry { dtype, shape, strides: None, file: 0, start, bytes }));
    }
    let metadata = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok(Contents { entries, metadata, ..Contents::default() })
}
