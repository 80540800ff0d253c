//! Batch norm with an optional residual and ReLU after it: statistics, normalisation and gradients.

use crate::config::BatchNormConfig;
use crate::devices::cuda::launch::Launch;
use crate::devices::cuda::memory::{Elements, Stored, aligned, cuda, pointer, tensor, uninitialised, width};
use crate::devices::cuda::pointwise::grid;
use crate::devices::cuda::settings::multiprocessors;
use crate::devices::cuda::sources::{BATCH_NORM, Module};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaDevice, CudaStorage, CustomOp3, DType, Layout, Shape, Tensor};
use std::sync::OnceLock;

const THREADS: usize = 256;

pub(super) fn module(
    dtype: DType,
    parameter: DType,
    width: usize,
    relu: bool,
    residual: bool,
) -> candle_core::Result<Module> {
    let module =
        Module::new(&BATCH_NORM).define_type("ELEMENT", dtype)?.define_type("PARAMETER", parameter)?;
    Ok(module
        .define("WIDTH", width)
        .define("RELU", usize::from(relu))
        .define("RESIDUAL", usize::from(residual)))
}

/// The sizes and types of one normalisation.
struct Plan<'a> {
    device: &'a CudaDevice,
    dtype: DType,
    parameter: DType,
    pixels: usize,
    channels: usize,
    /// Elements per access.
    width: usize,
    relu: bool,
    residual: bool,
    /// When channels are summed: the accesses side by side in a block, and the shares that pixels are split
    /// into.
    across: usize,
    shares: usize,
}

impl<'a> Plan<'a> {
    /// The plan for `x` (N, C, H, W); `addresses` are those that kernels read `width` elements at a time.
    fn new(
        x: Stored<'a>,
        addresses: &[u64],
        parameter: DType,
        relu: bool,
        residual: bool,
    ) -> candle_core::Result<Self> {
        let (n, channels, h, w) = x.1.shape().dims4()?;
        let (device, dtype, pixels) = (x.0.device(), x.0.dtype(), n * h * w);
        let width = if aligned(addresses) { width(dtype, channels) } else { 1 };
        let accesses = (channels / width).max(1);
        let across = accesses.next_power_of_two().min(32);
        let blocks = accesses.div_ceil(across);
        let most = pixels.div_ceil(4 * THREADS / across).max(1);
        let shares = (4 * multiprocessors(device)? / blocks).clamp(1, most);
        Ok(Plan { device, dtype, parameter, pixels, channels, width, relu, residual, across, shares })
    }

    fn launch(&self, function: &'static str) -> candle_core::Result<Launch<'a>> {
        let module = module(self.dtype, self.parameter, self.width, self.relu, self.residual)?;
        Ok(Launch::new(self.device, module, function))
    }

    /// The grid, and the bytes of shared memory per block, of a kernel that sums channels.
    fn sums(&self) -> ([usize; 3], usize) {
        ([(self.channels / self.width).div_ceil(self.across), self.shares, 1], THREADS * 2 * self.width * 4)
    }

    /// A buffer for the shares' sums.
    fn parts(&self) -> candle_core::Result<CudaStorage> {
        uninitialised(self.device, self.shares * 2 * self.channels, DType::F32)
    }

    fn per_channel(&self) -> [usize; 3] {
        [self.channels.div_ceil(128), 1, 1]
    }

    fn len(&self) -> usize {
        self.pixels * self.channels
    }
}

/// Batch norm as a custom op of `x` (N, C, H, W), weight and bias (C). Returns (N, H, W, C).
pub(crate) struct BatchNorm {
    config: BatchNormConfig,
    /// Running mean and variance (C): updated in training, used in evaluation.
    running: [Tensor; 2],
    training: bool,
    /// Four numbers per channel, set by the forward pass: scale, shift, mean and 1/σ.
    line: OnceLock<CudaStorage>,
}

impl BatchNorm {
    pub(crate) fn new(config: &BatchNormConfig, running: [&Tensor; 2], training: bool) -> Self {
        BatchNorm { config: *config, running: running.map(Clone::clone), training, line: OnceLock::new() }
    }

    /// The result (N, H, W, C), with `residual` (N, C, H, W) added before ReLU if there is one.
    pub(crate) fn forward(
        &self,
        x: Stored,
        [weight, bias]: [Stored; 2],
        residual: Option<Stored>,
    ) -> candle_core::Result<CudaStorage> {
        let from = Elements::channels_last(x)?;
        let [weight_from, bias_from] = [Elements::row_major(weight)?, Elements::row_major(bias)?];
        let residual = residual.map(Elements::channels_last).transpose()?;
        let other = residual.as_ref().map_or(Ok(0), Elements::pointer)?;
        let plan =
            Plan::new(x, &[from.pointer()?, other], weight.0.dtype(), self.config.relu, residual.is_some())?;
        let parts = if self.training { Some(plan.parts()?) } else { None };
        if let Some(parts) = &parts {
            let launch = plan.launch("moments")?.pointer(from.pointer()?).storage(parts)?;
            let launch = launch.int(plan.pixels)?.int(plan.channels)?.int(plan.across)?;
            let (blocks, shared) = plan.sums();
            // SAFETY: `x` has pixels · channels elements, `parts` two values per channel and share.
            unsafe { launch.enqueue(blocks, THREADS, shared) }?;
        }
        let line = uninitialised(plan.device, 4 * plan.channels, DType::F32)?;
        let mut launch = plan.launch("make_line")?.pointer(from.pointer()?);
        launch = launch.pointer(parts.as_ref().map_or(Ok(0), |parts| pointer(parts, 0))?).int(plan.shares)?;
        launch = launch.pointer(weight_from.pointer()?).pointer(bias_from.pointer()?);
        for running in &self.running {
            launch = launch.pointer(address(running, plan.parameter, plan.channels)?);
        }
        let launch = launch.storage(&line)?.int(plan.pixels)?.int(plan.channels)?;
        let launch = launch.float(self.config.eps).float(self.config.momentum);
        // SAFETY: parameters and running statistics have one element per channel, the line four. This kernel
        // alone writes the statistics; others that read them run before or after it on the stream.
        unsafe { launch.enqueue(plan.per_channel(), 128, 0) }?;
        let y = uninitialised(plan.device, plan.len(), plan.dtype)?;
        let launch = plan.launch("normalise")?.pointer(from.pointer()?).pointer(other);
        let launch = launch.storage(&line)?.storage(&y)?;
        let launch = launch.int(plan.pixels)?.int(plan.channels)?;
        // SAFETY: `x`, the residual where the module reads one, and `y` have pixels · channels elements.
        unsafe { launch.enqueue(grid(plan.len() / plan.width), THREADS, 0) }?;
        let _ = self.line.set(line);
        Ok(y)
    }

    /// The gradients of `x`, weight, bias and, if the output `y` of a sum with a residual is given, of the
    /// residual, from the output's gradient (N, H, W, C).
    pub(crate) fn gradients(
        &self,
        x: &Tensor,
        weight: &Tensor,
        y: Option<&Tensor>,
        gradient: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; 4]> {
        let Some(line) = self.line.get() else {
            candle_core::bail!("batch norm's gradient before its result")
        };
        let (x_storage, x_layout) = x.storage_and_layout();
        let (weight_storage, weight_layout) = weight.storage_and_layout();
        let (gradient_storage, gradient_layout) = gradient.storage_and_layout();
        let y_stored = y.map(|y| y.storage_and_layout());
        let stored = (cuda(&x_storage)?, x_layout);
        let from = Elements::channels_last(stored)?;
        let weights = Elements::row_major((cuda(&weight_storage)?, weight_layout))?;
        let g = Elements::row_major((cuda(&gradient_storage)?, gradient_layout))?;
        let out = match &y_stored {
            Some((storage, layout)) => Some(Elements::channels_last((cuda(storage)?, layout))?),
            None => None,
        };
        let out_at = out.as_ref().map_or(Ok(0), Elements::pointer)?;
        let addresses = [from.pointer()?, g.pointer()?, out_at];
        let plan = Plan::new(stored, &addresses, weight.dtype(), self.config.relu, out.is_some())?;
        let (len, channels) = (plan.len(), plan.channels);
        let gated = out.is_some().then(|| uninitialised(plan.device, len, plan.dtype)).transpose()?;
        let parts = plan.parts()?;
        let launch =
            plan.launch("gradient_sums")?.pointer(from.pointer()?).pointer(out_at).pointer(g.pointer()?);
        let launch = launch.storage(line)?;
        let launch = launch.pointer(gated.as_ref().map_or(Ok(0), |gated| pointer(gated, 0))?);
        let launch = launch.storage(&parts)?.int(plan.pixels)?.int(channels)?.int(plan.across)?;
        let (blocks, shared) = plan.sums();
        // SAFETY: `x`, the gradient and, where the module has a residual, `y` and `gated` have `len`
        // elements; the line has four values per channel, `parts` two per channel and share.
        unsafe { launch.enqueue(blocks, THREADS, shared) }?;
        let per_channel = || uninitialised(plan.device, channels, plan.parameter);
        let (weight_gradient, bias_gradient) = (per_channel()?, per_channel()?);
        let gradient_line = uninitialised(plan.device, 3 * channels, DType::F32)?;
        let launch = plan.launch("make_gradient_line")?.storage(&parts)?.int(plan.shares)?;
        let launch = launch.pointer(weights.pointer()?).storage(line)?;
        let launch = launch.storage(&weight_gradient)?.storage(&bias_gradient)?;
        let launch = launch.storage(&gradient_line)?.int(plan.pixels)?.int(channels)?;
        // SAFETY: all have one element per channel, the lines four and three.
        unsafe { launch.int(usize::from(self.training))?.enqueue(plan.per_channel(), 128, 0) }?;
        let dx = uninitialised(plan.device, len, plan.dtype)?;
        let launch = plan.launch("input_gradient")?.pointer(from.pointer()?);
        let launch = launch.pointer(gated.as_ref().map_or_else(|| g.pointer(), |gated| pointer(gated, 0))?);
        let launch = launch.storage(line)?.storage(&gradient_line)?;
        let launch = launch.storage(&dx)?.int(plan.pixels)?.int(channels)?;
        // SAFETY: as above.
        unsafe { launch.enqueue(grid(len / plan.width), THREADS, 0) }?;
        let (n, c, h, w) = x.dims4()?;
        let image = |storage| tensor(storage, (n, h, w, c)).permute((0, 3, 1, 2));
        Ok([
            Some(image(dx)?),
            Some(tensor(weight_gradient, c)),
            Some(tensor(bias_gradient, c)),
            gated.map(image).transpose()?,
        ])
    }
}

/// The address of running statistics, which must be contiguous and of type `dtype`.
fn address(running: &Tensor, dtype: DType, channels: usize) -> candle_core::Result<u64> {
    let (storage, layout) = running.storage_and_layout();
    match layout.contiguous_offsets() {
        Some((start, end)) if end - start == channels && running.dtype() == dtype => {
            pointer(cuda(&storage)?, start)
        }
        _ => candle_core::bail!(
            "running statistics: expected {channels} contiguous {dtype:?}, got {:?} {:?}",
            running.shape(),
            running.dtype()
        ),
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        candle_core::bail!("batch norm of running statistics on CUDA: expected tensors on that device")
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let (n, c, h, w) = l1.shape().dims4()?;
        Ok((self.forward((s1, l1), [(s2, l2), (s3, l3)], None)?, (n, h, w, c).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, db, _] = self.gradients(x, weight, None, gradient)?;
        Ok((dx, dw, db))
    }
}
