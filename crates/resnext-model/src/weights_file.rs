//! Weights read from a safetensors file one by one, so that no more of it than a tensor is in memory.

use crate::{Error, Result};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use safetensors::tensor::Metadata;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A builder that reads each weight from the safetensors file at `path` when it is asked for.
///
/// # Errors
/// If the file can't be read, or is no whole safetensors file.
pub fn weights_file(path: &Path, dtype: DType, device: &Device) -> Result<VarBuilder<'static>> {
    let failed = |reason: String| Error::File { path: path.to_path_buf(), reason };
    let mut file = File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(|e| failed(e.to_string()))?;
    let len = file.metadata().map_err(|e| failed(e.to_string()))?.len();
    let header = u64::from_le_bytes(start);
    if len < 8 || header > len - 8 {
        return Err(failed(format!("its header says {header} bytes, the file has {len}")));
    }
    let mut bytes = vec![0; header as usize];
    file.read_exact(&mut bytes).map_err(|e| failed(e.to_string()))?;
    let metadata: Metadata = serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))?;
    let data = 8 + header;
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let count = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &dim| n.checked_mul(dim));
        let whole = start <= end && count == (end - start).checked_mul(8) && end as u64 <= len - data;
        if !whole {
            return Err(failed(format!(
                "its header says bytes {start} to {end} of shape {:?}: {name}",
                info.shape
            )));
        }
    }
    let weights = WeightsFile { path: path.to_path_buf(), file: Mutex::new(file), metadata, data };
    Ok(VarBuilder::from_backend(Box::new(weights), dtype, device.clone()))
}

struct WeightsFile {
    path: PathBuf,
    file: Mutex<File>,
    metadata: Metadata,
    /// Where the tensors begin.
    data: u64,
}

impl WeightsFile {
    fn read(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let Some(info) = self.metadata.info(name) else {
            candle_core::bail!("no such weight in {}: {name}", self.path.display());
        };
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.data + start as u64))?;
        file.read_exact(&mut bytes)?;
        Tensor::from_raw_buffer(&bytes, info.dtype.try_into()?, &info.shape, device)?.to_dtype(dtype)
    }
}

impl SimpleBackend for WeightsFile {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.read(name, dtype, device)?;
        if tensor.shape() != &shape {
            candle_core::bail!("expected shape {shape:?}, file has {:?}: {name}", tensor.shape());
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.read(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }
}
