//! Sums of tensors on GPUs, by NCCL.

use crate::error::{Error, Result};
use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaSlice, DriverError};
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, NcclType, ReduceOp};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Shape, Storage, Tensor};

/// Bytes of an identifier by which processes find each other.
const ID_BYTES: usize = 128;

/// What identifies the GPU that a process computes on, which no other GPU has; `None` for another kind of device.
pub(crate) fn identity(device: &Device) -> Result<Option<Vec<u8>>> {
    let Device::Cuda(cuda) = device else { return Ok(None) };
    let uuid = cuda.cuda_stream().context().uuid().map_err(driver)?;
    Ok(Some(uuid.bytes.iter().map(|&byte| byte as u8).collect()))
}

/// A new identifier, which one process makes for all.
pub(crate) fn new_id() -> Result<Vec<u8>> {
    let id = Id::new().map_err(|error| failed("cannot begin", &error))?;
    Ok(id.internal().iter().map(|&byte| byte as u8).collect())
}

/// This process's end of NCCL. It belongs to the thread that made it.
pub(crate) struct Nccl {
    /// With a stream of its own, so that sums run beside the backward pass.
    comm: Comm,
}

impl Nccl {
    /// Joins the processes that have the same `id`. Returns when all have.
    pub(crate) fn join(device: &CudaDevice, (rank, size): (usize, usize), id: &[u8]) -> Result<Self> {
        let bytes: [u8; ID_BYTES] = id.try_into().map_err(|_| {
            Error::Processes(format!("NCCL: an identifier of {} bytes, expected {ID_BYTES}", id.len()))
        })?;
        let context = device.cuda_stream().context().clone();
        // NCCL takes the GPU that is the thread's current one.
        context.bind_to_thread().map_err(driver)?;
        let stream = context.new_stream().map_err(driver)?;
        let id = Id::uninit(bytes.map(|byte| byte as _));
        let comm = Comm::from_rank(stream, rank, size, id);
        Ok(Nccl { comm: comm.map_err(|error| failed("cannot join the other processes", &error))? })
    }

    /// Starts to add `sum` up, behind the work that makes its tensor. The event is complete when the sum is.
    pub(crate) fn start(&self, sum: &mut DeviceSum) -> Result<CudaEvent> {
        let stream = self.comm.stream();
        stream.wait(&sum.ready).map_err(driver)?;
        match sum.sent.dtype() {
            DType::BF16 => self.all_reduce::<half::bf16>(sum)?,
            _ => self.all_reduce::<f32>(sum)?,
        }
        stream.record_event(None).map_err(driver)
    }

    fn all_reduce<T: CudaDType + NcclType>(&self, sum: &mut DeviceSum) -> Result<()> {
        let (storage, layout) = sum.sent.storage_and_layout();
        let (Storage::Cuda(storage), Some((from, to))) = (&*storage, layout.contiguous_offsets()) else {
            return Err(Error::Processes("NCCL: expected a contiguous tensor on a GPU".into()));
        };
        let sent = T::as_cuda_slice(storage)?.slice(from..to);
        let received: &mut CudaSlice<T> = T::as_cuda_slice_mut(&mut sum.received)?;
        let done = self.comm.all_reduce(&sent, received, &ReduceOp::Sum);
        done.map(|_| ()).map_err(|error| failed("cannot add up", &error))
    }
}

/// A tensor that is to be added up, and the memory for its sum.
///
/// Both stay until the sum is complete: their memory goes back on the stream that computes, which does not know of the
/// one that adds up.
pub(crate) struct DeviceSum {
    sent: Tensor,
    received: CudaStorage,
    /// Complete when `sent` has been computed.
    ready: CudaEvent,
}

impl DeviceSum {
    /// `tensor` is contiguous, of type f32 or bf16. To be called on the thread that computes.
    pub(crate) fn new(tensor: Tensor) -> Result<Self> {
        let Device::Cuda(device) = tensor.device() else {
            return Err(Error::Processes("NCCL: expected a tensor on a GPU".into()));
        };
        let received = device.zeros_impl(&Shape::from(tensor.elem_count()), tensor.dtype())?;
        let ready = device.cuda_stream().record_event(None).map_err(driver)?;
        Ok(DeviceSum { sent: tensor, received, ready })
    }

    /// The sum, as soon as it is complete.
    pub(crate) fn into_tensor(self) -> Result<Tensor> {
        let storage = Storage::Cuda(self.received);
        Ok(Tensor::from_storage(storage, self.sent.shape().clone(), BackpropOp::none(), false))
    }
}

/// An error of the driver.
pub(crate) fn driver(error: DriverError) -> Error {
    Error::Processes(format!("CUDA: {error}"))
}

fn failed(what: &str, error: &NcclError) -> Error {
    Error::Processes(format!("NCCL {what}: {:?}; NCCL_DEBUG=WARN says more", error.0))
}
