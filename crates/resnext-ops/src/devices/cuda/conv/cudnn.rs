//! Grouped convolution by cuDNN: channels-last, sums in f32, and only deterministic algorithms.

use crate::devices::cuda::conv::job::{Direction, Job};
use crate::devices::cuda::conv::weights;
use crate::devices::cuda::launch::int;
use crate::devices::cuda::log::log_call;
use crate::devices::cuda::memory::{pointer, uninitialised};
use crate::devices::cuda::settings::tf32;
use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::cudarc::cudnn::{CudnnError, result, sys};
use candle_core::{CudaDevice, CudaStorage, DType};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// A cuDNN object that is destroyed when it is dropped.
struct Owned<T: Copy> {
    raw: T,
    destroy: unsafe fn(T) -> Result<(), CudnnError>,
}

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `destroy` is the function for the kind of `raw`, which nobody else owns. A failure has no
        // remedy.
        let _ = unsafe { (self.destroy)(self.raw) };
    }
}

type Handle = Rc<Owned<sys::cudnnHandle_t>>;

thread_local! {
    /// A cuDNN handle belongs to one thread.
    static HANDLES: RefCell<HashMap<DeviceId, Handle>> = RefCell::default();
}

fn wrap(error: CudnnError) -> candle_core::Error {
    candle_core::Error::wrap(error)
}

fn handle(device: &CudaDevice) -> candle_core::Result<Handle> {
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().map_err(candle_core::Error::wrap)?;
    HANDLES.with_borrow_mut(|handles| {
        if let Some(handle) = handles.get(&device.id()) {
            return Ok(handle.clone());
        }
        let handle = Owned { raw: result::create_handle().map_err(wrap)?, destroy: result::destroy_handle };
        // SAFETY: the handle is new, and the stream lives as long as the device, whose tensors outlive their
        // use here.
        unsafe { result::set_stream(handle.raw, stream.cu_stream().cast()) }.map_err(wrap)?;
        let handle = Rc::new(handle);
        handles.insert(device.id(), handle.clone());
        Ok(handle)
    })
}

fn data_type(dtype: DType) -> candle_core::Result<sys::cudnnDataType_t> {
    match dtype {
        DType::F32 => Ok(sys::cudnnDataType_t::CUDNN_DATA_FLOAT),
        DType::BF16 => Ok(sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16),
        DType::F16 => Ok(sys::cudnnDataType_t::CUDNN_DATA_HALF),
        other => candle_core::bail!("convolution on CUDA takes F32, BF16 and F16, got {other:?}"),
    }
}

const CHANNELS_LAST: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

/// cuDNN's descriptors of a convolution.
struct Descriptors {
    input: Owned<sys::cudnnTensorDescriptor_t>,
    weight: Owned<sys::cudnnFilterDescriptor_t>,
    conv: Owned<sys::cudnnConvolutionDescriptor_t>,
    output: Owned<sys::cudnnTensorDescriptor_t>,
}

impl Descriptors {
    fn new(job: &Job) -> candle_core::Result<Self> {
        let (s, c, kind) = (job.shape, job.shape.config, data_type(job.dtype)?);
        let four = |a: usize, b: usize, c: usize, d: usize| -> candle_core::Result<[i32; 4]> {
            Ok([int(a)?, int(b)?, int(c)?, int(d)?])
        };
        let tensor = |sizes: [i32; 4]| -> candle_core::Result<_> {
            let raw = result::create_tensor_descriptor().map_err(wrap)?;
            let tensor = Owned { raw, destroy: result::destroy_tensor_descriptor };
            // SAFETY: just created.
            unsafe { result::set_tensor4d_descriptor(raw, CHANNELS_LAST, kind, sizes) }.map_err(wrap)?;
            Ok(tensor)
        };
        let raw = result::create_filter_descriptor().map_err(wrap)?;
        let weight = Owned { raw, destroy: result::destroy_filter_descriptor };
        let sizes = four(s.out_channels, s.group_in(), s.kernel_h, s.kernel_w)?;
        // SAFETY: just created.
        unsafe { result::set_filter4d_descriptor(raw, kind, CHANNELS_LAST, sizes) }.map_err(wrap)?;
        let raw = result::create_convolution_descriptor().map_err(wrap)?;
        let conv = Owned { raw, destroy: result::destroy_convolution_descriptor };
        let (padding, stride, dilation) = (int(c.padding)?, int(c.stride)?, int(c.dilation)?);
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let sums = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        let math = match (job.dtype, tf32()) {
            (DType::F32, false) => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            // cuDNN's default math for f32 is TF32.
            (DType::F32, true) => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
            _ => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        };
        // SAFETY: just created.
        unsafe {
            result::set_convolution2d_descriptor(
                raw, padding, padding, stride, stride, dilation, dilation, mode, sums,
            )
            .and_then(|()| result::set_convolution_group_count(raw, int(c.groups).unwrap_or(i32::MAX)))
            .and_then(|()| result::set_convolution_math_type(raw, math))
        }
        .map_err(wrap)?;
        Ok(Descriptors {
            input: tensor(four(s.batch, s.in_channels, s.in_h, s.in_w)?)?,
            weight,
            conv,
            output: tensor(four(s.batch, s.out_channels, s.out_h, s.out_w)?)?,
        })
    }
}

/// Whether the error says that the algorithm does not support the convolution, so that another may.
fn not_supported(error: CudnnError) -> bool {
    // cuDNN 9 numbers errors by kind; NOT_SUPPORTED's begin at 3000.
    error.0 as u32 / 1000 == 3
}

/// Asks cuDNN by `query` for algorithms, fastest first, and runs `call`, from two operands to the result,
/// with the first that is deterministic, whose workspace fits in memory, and that supports the convolution
/// after all. Evaluates to whether there was one.
macro_rules! first_usable {
    ($job:expr, $handle:expr, $conv:expr, $perf:ty, $query:path, $call:path,
     $a:expr, $a_data:expr, $b:expr, $b_data:expr, $result:expr, $to:expr) => {{
        let mut count = 0;
        // SAFETY: a structure of numbers, for which zeros are valid; cuDNN writes it.
        let mut found: [$perf; 8] = unsafe { std::mem::zeroed() };
        let room = found.len() as i32;
        // SAFETY: handle and descriptors are alive, and `found` has room for as many as are requested.
        unsafe { $query($handle, $a, $b, $conv, $result, room, &mut count, found.as_mut_ptr()) }
            .map_err(wrap)?;
        let one = (&raw const SCALES[0]).cast();
        let zero = (&raw const SCALES[1]).cast();
        let mut done = false;
        for best in found.iter().take(count.max(0) as usize) {
            let proposed = best.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS;
            if !proposed || best.determinism != sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC {
                continue;
            }
            // At least a byte, so that there is an address. If memory is short, the next algorithm may need
            // less.
            let Ok(room) = uninitialised($job.device, best.memory.max(1), DType::U8) else { continue };
            let (space, bytes) = (address(&room).cast_mut(), best.memory);
            // SAFETY: handle and descriptors are alive; operands and result are device memory as long as the
            // descriptors say, the workspace as long as cuDNN said.
            let outcome = unsafe {
                result::set_convolution_math_type($conv, best.mathType).and_then(|()| {
                    $call(
                        $handle, one, $a, $a_data, $b, $b_data, $conv, best.algo, space, bytes, zero,
                        $result, $to,
                    )
                })
            };
            match outcome {
                Ok(()) => {
                    done = true;
                    break;
                }
                Err(error) if not_supported(error) => {}
                Err(error) => return Err(wrap(error)),
            }
        }
        done
    }};
}

/// The convolution, if cuDNN has a usable algorithm for it.
pub(super) fn try_compute(job: &Job) -> candle_core::Result<Option<CudaStorage>> {
    use result::{
        convolution_backward_data, convolution_backward_filter, convolution_forward,
        get_convolution_backward_data_algorithm, get_convolution_backward_filter_algorithm,
        get_convolution_forward_algorithm,
    };
    use sys::{
        cudnnConvolutionBwdDataAlgoPerf_t as Data, cudnnConvolutionBwdFilterAlgoPerf_t as Filter,
        cudnnConvolutionFwdAlgoPerf_t as Forward,
    };
    let (device, shape) = (job.device, job.shape);
    let (handle, d) = (handle(device)?, Descriptors::new(job)?);
    let handle = handle.raw;
    let (input, weight, conv, output) = (d.input.raw, d.weight.raw, d.conv.raw, d.output.raw);
    let (image, other) = (job.image as *const std::ffi::c_void, job.other as *const std::ffi::c_void);
    let weights = match job.direction {
        Direction::Weight => None,
        _ => Some(weights::to_elements(device, shape, job.other, job.weight_dtype, job.dtype)?),
    };
    let w = weights.as_ref().map_or(std::ptr::null(), address);
    let out = uninitialised(device, job.result_len(), job.dtype)?;
    let to = address(&out).cast_mut();
    let (done, name) = match job.direction {
        Direction::Forward => {
            let (query, call) = (get_convolution_forward_algorithm, convolution_forward);
            let done =
                first_usable!(job, handle, conv, Forward, query, call, input, image, weight, w, output, to);
            (done, "cuDNN: convolution forward")
        }
        Direction::Input => {
            let (query, call) = (get_convolution_backward_data_algorithm, convolution_backward_data);
            let done =
                first_usable!(job, handle, conv, Data, query, call, weight, w, output, image, input, to);
            (done, "cuDNN: convolution input gradient")
        }
        Direction::Weight => {
            let (query, call) = (get_convolution_backward_filter_algorithm, convolution_backward_filter);
            let done = first_usable!(
                job, handle, conv, Filter, query, call, input, other, output, image, weight, to
            );
            (done, "cuDNN: convolution weight gradient")
        }
    };
    if !done {
        return Ok(None);
    }
    log_call(name);
    Ok(Some(match job.direction {
        Direction::Weight => {
            weights::from_elements(device, shape, pointer(&out, 0)?, job.dtype, job.weight_dtype)?
        }
        _ => out,
    }))
}

/// The factors of the result and of the destination's previous contents.
static SCALES: [f32; 2] = [1.0, 0.0];

/// The address of a buffer; null, which cuDNN reports, if it has none.
fn address(storage: &CudaStorage) -> *const std::ffi::c_void {
    pointer(storage, 0).unwrap_or(0) as *const _
}
