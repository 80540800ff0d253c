//! Launching the kernels in `grouped.metal`. None of this has run on a Mac yet.

use crate::devices::metal::plan::{Launch, Plan, SOURCE};
use candle_core::backend::BackendStorage;
use candle_core::metal_backend::MetalError;
use candle_core::{DType, Layout, MetalDevice, MetalStorage, Result, Shape, Tensor};
use candle_metal_kernels::metal::{Buffer, ComputePipeline, Library};
use objc2_metal::MTLSize;
use resnext_kernels::ConvShape;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The number of Metal devices of this machine: candle panics when one that does not exist is opened.
pub fn devices() -> usize {
    candle_metal_kernels::metal::Device::all().len()
}

/// Whether the kernels compute a convolution of `x` of this shape.
pub(crate) fn supports(x: &Tensor, shape: &ConvShape) -> bool {
    x.device().is_metal() && suffix(x.dtype()).is_ok() && Plan::new(shape).is_some()
}

fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        other => {
            candle_core::bail!("grouped convolution on Metal: expected F32, F16 or BF16, got {other:?}")
        }
    }
}

/// The output (N, H', W', Cout) from `x` (N, H, W, Cin) and the weight.
pub(crate) fn forward(
    shape: &ConvShape,
    x: (&MetalStorage, &Layout),
    weight: (&MetalStorage, &Layout),
) -> Result<(MetalStorage, Shape)> {
    let plan = plan(shape)?;
    let out = launch(&plan, plan.forward(), &[x, weight], shape.output_len(), x.0.dtype())?;
    Ok((out, (shape.batch, shape.out_h, shape.out_w, shape.out_channels).into()))
}

/// The gradient (N, H, W, Cin) of the input, from the output's (N, H', W', Cout) and the weight.
pub(crate) fn input_gradient(
    shape: &ConvShape,
    gradient: (&MetalStorage, &Layout),
    weight: (&MetalStorage, &Layout),
) -> Result<(MetalStorage, Shape)> {
    let plan = plan(shape)?;
    let dtype = gradient.0.dtype();
    let out = launch(&plan, plan.input_gradient(), &[gradient, weight], shape.input_len(), dtype)?;
    Ok((out, (shape.batch, shape.in_h, shape.in_w, shape.in_channels).into()))
}

/// The gradient of the weight, from `x` (N, H, W, Cin) and the output's gradient (N, H', W', Cout).
pub(crate) fn weight_gradient(
    shape: &ConvShape,
    x: (&MetalStorage, &Layout),
    gradient: (&MetalStorage, &Layout),
) -> Result<(MetalStorage, Shape)> {
    let plan = plan(shape)?;
    let dtype = x.0.dtype();
    let partial = launch(&plan, plan.weight_gradient(), &[x, gradient], plan.partial_len(), DType::F32)?;
    let layout = Layout::contiguous(plan.partial_len());
    let out = typed(&plan, plan.add_blocks(), dtype, &[(&partial, &layout)], shape.weight_len(), dtype)?;
    Ok((out, (shape.out_channels, shape.group_in(), 3, 3).into()))
}

fn plan(shape: &ConvShape) -> Result<Plan> {
    let refused = || candle_core::Error::Msg(format!("no Metal kernel for the convolution {shape:?}"));
    Plan::new(shape).ok_or_else(refused)
}

/// Launches a kernel for the type of its inputs.
fn launch(
    plan: &Plan,
    launch: Launch,
    inputs: &[(&MetalStorage, &Layout)],
    len: usize,
    out: DType,
) -> Result<MetalStorage> {
    typed(plan, launch, inputs[0].0.dtype(), inputs, len, out)
}

fn typed(
    plan: &Plan,
    launch: Launch,
    kernel: DType,
    inputs: &[(&MetalStorage, &Layout)],
    len: usize,
    out: DType,
) -> Result<MetalStorage> {
    let device = inputs[0].0.device();
    let pipeline = pipeline(device, launch, suffix(kernel)?)?;
    let buffer: Arc<Buffer> = device.new_buffer(len, out, launch.kernel)?;
    let encoder = device.command_encoder()?;
    encoder.set_compute_pipeline_state(&pipeline);
    let encoder = encoder.as_ref();
    for (i, (storage, layout)) in inputs.iter().enumerate() {
        let Some((start, _)) = layout.contiguous_offsets() else {
            candle_core::bail!(
                "{}: expected a contiguous input, got strides {:?}",
                launch.kernel,
                layout.stride()
            )
        };
        encoder.set_input_buffer(i, Some(storage.buffer()), start * storage.dtype().size_in_bytes());
    }
    encoder.set_output_buffer(inputs.len(), Some(&buffer), 0);
    encoder.set_bytes(inputs.len() + 1, &plan.sizes());
    if launch.memory > 0 {
        encoder.set_threadgroup_memory_length(0, launch.memory);
    }
    let size = |[width, height, depth]: [usize; 3]| MTLSize { width, height, depth };
    encoder.dispatch_thread_groups(size(launch.threadgroups), size(launch.threads));
    Ok(MetalStorage::new(buffer, device.clone(), len, out))
}

/// The compiled library and pipelines of one GPU.
#[derive(Default)]
struct Compiled {
    library: Option<Library>,
    pipelines: HashMap<String, ComputePipeline>,
}

fn pipeline(device: &MetalDevice, launch: Launch, suffix: &str) -> Result<ComputePipeline> {
    static COMPILED: Mutex<Vec<(candle_core::metal_backend::DeviceId, Compiled)>> = Mutex::new(Vec::new());
    let mut all = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let at = match all.iter().position(|(id, _)| *id == device.id()) {
        Some(at) => at,
        None => {
            all.push((device.id(), Compiled::default()));
            all.len() - 1
        }
    };
    let Compiled { library, pipelines } = &mut all[at].1;
    let name = format!("{}_{suffix}", launch.kernel);
    if let Some(pipeline) = pipelines.get(&name) {
        return Ok(pipeline.clone());
    }
    let gpu = device.metal_device();
    let library = match library {
        Some(library) => library,
        None => library.insert(gpu.new_library_with_source(SOURCE, None).map_err(MetalError::from)?),
    };
    let function = library.get_function(&name, None).map_err(MetalError::from)?;
    let pipeline = gpu.new_compute_pipeline_state_with_function(&function).map_err(MetalError::from)?;
    let threads = launch.threads.iter().product::<usize>();
    if pipeline.max_total_threads_per_threadgroup() < threads {
        candle_core::bail!("{name}: this GPU runs fewer than {threads} threads of it in a threadgroup");
    }
    pipelines.insert(name, pipeline.clone());
    Ok(pipeline)
}
