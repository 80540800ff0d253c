//! Device memory: addresses of a tensor's elements, new buffers, and tensors of kernels' results.

use crate::devices::cuda::log::log_candle;
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Shape, Storage, Tensor};

/// A tensor's storage and layout, as candle passes them to custom ops.
pub(crate) type Stored<'a> = (&'a CudaStorage, &'a Layout);

/// Contiguous elements: a tensor's own memory, or a contiguous copy.
pub(super) enum Elements<'a> {
    Borrowed(&'a CudaStorage, usize),
    Copied(CudaStorage),
}

impl<'a> Elements<'a> {
    /// A layout's elements in row-major order.
    pub(super) fn row_major((storage, layout): (&'a CudaStorage, &Layout)) -> candle_core::Result<Self> {
        if let Some((start, _)) = layout.contiguous_offsets() {
            return Ok(Elements::Borrowed(storage, start));
        }
        let mut copy = uninitialised(storage.device(), layout.shape().elem_count(), storage.dtype())?;
        log_candle("ucopy", layout, storage.dtype());
        storage.copy_strided_src(&mut copy, 0, layout)?;
        Ok(Elements::Copied(copy))
    }

    /// The elements of a (N, C, H, W) layout in channels-last order.
    pub(super) fn channels_last((storage, layout): (&'a CudaStorage, &Layout)) -> candle_core::Result<Self> {
        Self::row_major((storage, &layout.permute(&[0, 2, 3, 1])?))
    }

    /// The address of the first element.
    pub(super) fn pointer(&self) -> candle_core::Result<u64> {
        match self {
            Elements::Borrowed(storage, start) => pointer(storage, *start),
            Elements::Copied(storage) => pointer(storage, 0),
        }
    }
}

/// The address of an element.
pub(super) fn pointer(storage: &CudaStorage, element: usize) -> candle_core::Result<u64> {
    let stream = storage.device().cuda_stream();
    // The guard that comes with the address orders several streams; this device has one.
    let start = match &storage.slice {
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::I64(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        _ => candle_core::bail!("no kernel for CUDA takes {:?}", storage.dtype()),
    };
    Ok(start + (element * storage.dtype().size_in_bytes()) as u64)
}

/// A new buffer, whose elements a kernel must write before anything reads them.
pub(super) fn uninitialised(
    device: &CudaDevice,
    len: usize,
    dtype: DType,
) -> candle_core::Result<CudaStorage> {
    // SAFETY: every caller hands it to a kernel that writes all of it before anything reads it.
    unsafe { device.alloc_uninit(&Shape::from(len), dtype) }
}

/// How many elements of rows of `channels` elements one access takes: 16 bytes, or as much as divides a row.
pub(super) fn width(dtype: DType, channels: usize) -> usize {
    let most = 16 / dtype.size_in_bytes();
    (0..).map(|i| most >> i).find(|&w| w <= 1 || channels.is_multiple_of(w)).unwrap_or(1)
}

/// Whether accesses of 16 bytes may start at these addresses; a tensor may be a view that starts anywhere.
pub(super) fn aligned(pointers: &[u64]) -> bool {
    pointers.iter().all(|pointer| pointer.is_multiple_of(16))
}

/// Wraps a kernel's output in a tensor outside of any graph.
pub(crate) fn tensor(storage: CudaStorage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// The CUDA storage of a tensor that must have one.
pub(crate) fn cuda(storage: &Storage) -> candle_core::Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => candle_core::bail!("expected a tensor on a CUDA device"),
    }
}
