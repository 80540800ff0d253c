//! The optimizer's step for all parameters in one launch.

use crate::devices::cuda::launch::Launch;
use crate::devices::cuda::log::{COPY_TO_DEVICE, log_call};
use crate::devices::cuda::memory::pointer;
use crate::devices::cuda::settings::cuda_device;
use crate::devices::cuda::sources::{Module, SGD};
use crate::error::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::{CudaDevice, CudaStorage, DType, Storage, Tensor, Var};

/// Threads and elements per block.
const THREADS: usize = 256;
const BLOCK: usize = 4096;

/// A variable of a step. All its tensors are f32, contiguous, and of the value's shape.
#[derive(Debug, Clone, Copy)]
pub struct SgdParameter<'a> {
    /// The variable.
    pub value: &'a Var,
    /// Its momentum, which the step updates too, and its gradient; `None` if the value stays.
    pub moved: Option<(&'a Var, &'a Tensor)>,
    /// An average of the value over steps, which the step updates, if there is one.
    pub average: Option<&'a Var>,
}

/// The settings of a step. With g = gradient + decay·value the momentum buffer becomes b = momentum·b + g,
/// and the value moves by -learning_rate·b or, with Nesterov momentum, by -learning_rate·(g + momentum·b).
/// Then the average becomes keep·average + (1 - keep)·value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdSettings {
    /// The length of the step.
    pub learning_rate: f64,
    /// The factor of the momentum buffer, from 0 to 1.
    pub momentum: f64,
    /// Whether the step is Nesterov's.
    pub nesterov: bool,
    /// The multiple of each value that is added to its gradient (weight decay).
    pub decay: f64,
    /// The factor of the average, from 0 to 1.
    pub keep: f64,
}

/// The address of a tensor's elements, which must be f32, contiguous and of the value's shape.
fn address(of: &Tensor, value: &Tensor, what: &'static str) -> Result<u64> {
    if of.dims() != value.dims() {
        let expected = format!("{:?}, the shape of the parameter", value.dims());
        return Err(Error::Shape { op: "sgd_step", input: what, expected, got: of.shape().clone() });
    }
    let (storage, layout) = of.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cuda(storage), Some((start, _))) if storage.dtype() == DType::F32 => {
            Ok(pointer(storage, start)?)
        }
        _ => {
            let message = format!(
                "expected {what} to be contiguous, F32 and on a CUDA device, got strides {:?}, {:?} on {:?}",
                layout.stride(),
                of.dtype(),
                of.device().location()
            );
            Err(Error::Config { op: "sgd_step", message })
        }
    }
}

/// Updates all `parameters`, their momenta and their averages in one launch.
///
/// # Errors
/// If a tensor is not f32, contiguous, of its parameter's shape and on a CUDA device, or if devices differ.
pub fn sgd_step(parameters: &[SgdParameter], settings: &SgdSettings) -> Result<()> {
    let Some(first) = parameters.first() else { return Ok(()) };
    let device: CudaDevice = cuda_device("sgd_step", first.value.device())?.clone();
    // The kernel's `Parameter`: four addresses, the number of elements, and the index of the parameter's
    // first block.
    let mut table: Vec<i64> = Vec::with_capacity(parameters.len() * 6);
    let mut blocks = 0;
    for SgdParameter { value, moved, average } in parameters {
        let all = moved.iter().flat_map(|(momentum, gradient)| [momentum.as_tensor(), gradient]);
        let all = all.chain(average.map(Var::as_tensor)).chain([value.as_tensor()]);
        if !{ all }.all(|t| t.device().same_device(first.value.device())) {
            let message = "parameters and gradients are on different devices".to_string();
            return Err(Error::Config { op: "sgd_step", message });
        }
        let average = average.map_or(Ok(0), |average| address(average, value, "the average"))?;
        let (momentum, gradient) = match moved {
            Some((momentum, gradient)) => {
                (address(momentum, value, "the momentum")?, address(gradient, value, "the gradient")?)
            }
            None => (0, 0),
        };
        table.extend([
            address(value, value, "the value")? as i64,
            momentum as i64,
            gradient as i64,
            average as i64,
            value.elem_count() as i64,
            blocks as i64,
        ]);
        blocks += value.elem_count().div_ceil(BLOCK);
    }
    log_call(COPY_TO_DEVICE);
    let slice = CudaStorageSlice::I64(device.clone_htod(&table)?);
    let table = CudaStorage { slice, device: device.clone() };
    let launch = Launch::new(&device, Module::new(&SGD), "sgd").storage(&table)?;
    let launch = launch.int(parameters.len())?.float(settings.learning_rate).float(settings.momentum);
    let launch = launch.float(settings.decay).float(settings.keep).int(usize::from(settings.nesterov))?;
    // SAFETY: the table has an entry for each parameter, with addresses of as many f32 as its count says.
    // They live until the launch is queued, and the stream runs it in order.
    unsafe { launch.enqueue([blocks, 1, 1], THREADS, 0) }?;
    Ok(())
}
