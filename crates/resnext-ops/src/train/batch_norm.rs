//! Batch normalisation with running statistics, optionally with ReLU, as one operation with gradients.

use crate::config::BatchNormConfig;
#[cfg(feature = "cuda")]
use crate::devices::cuda::batch_norm::BatchNorm;
use crate::devices::{Backend, is_master};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::layout::{channels_last, from_nhwc, row_major};
use crate::shape::check_rank;
use crate::train::cast::cast;
use crate::train::norm::{RunningStats, check_count, gradient_coefficients, inverse_std, scale_and_shift};
use crate::train::residual::add_relu;
use crate::train::sync_norm::{BatchStatistics, gradient_sums_of_all_processes};
use crate::train::tape::{Output, apply3, needs_gradient};
use crate::train::upcast::{upcast, with_float, with_upcast};
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Storage, Tensor};
use resnext_kernels::Isa;
use std::sync::OnceLock;

/// Normalises each channel of `x` (N, C, H, W) by the mean and variance of this batch, then scales by
/// `weight` (C) and shifts by `bias` (C). Moves the running statistics (C) towards the batch's. Returns
/// (N, C, H, W), channels-last.
///
/// As in PyTorch, the batch is normalised by its biased variance, and the running variance averages the
/// unbiased one. Gradients reach `x`, `weight` and `bias`.
///
/// In mixed precision, `x` is bf16 or f16, and the parameters and running statistics may be f32. Statistics
/// are then summed in f32 or f64, and the result has x's type.
///
/// # Errors
/// If shapes or types do not fit, or there is only one value per channel, which has no variance.
pub fn batch_norm_train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    running: &RunningStats,
    config: &BatchNormConfig,
) -> Result<Tensor> {
    check(x, weight, bias, &running.mean, &running.var)?;
    let count = check_count(x.shape())?;
    match Backend::of(x) {
        #[cfg(feature = "cuda")]
        Backend::Cuda => {
            let op = BatchNorm::new(config, [&running.mean, &running.var], true);
            apply3(x, weight, bias, op, Output::ChannelsLast)
        }
        Backend::Cpu => {
            let (mean, variance) = batch_statistics(x)?;
            let BatchStatistics { mean, variance, count } =
                BatchStatistics { mean, variance, count }.of_all_processes()?;
            running.update(&mean, &variance, count, config)?;
            let stats = Stats { inv_std: inverse_std(&variance, config.eps), mean, count };
            normalise(x, weight, bias, stats, true, config.relu)
        }
        _ => {
            let wide = cast(x, weight.dtype())?;
            let mean = wide.mean_keepdim((0, 2, 3))?;
            let centred = wide.broadcast_sub(&mean)?;
            let var = centred.sqr()?.mean_keepdim((0, 2, 3))?;
            let y = cast(&composite(&centred, &var, weight, bias, config)?, x.dtype())?;
            running.blend(mean.flatten_all()?.detach(), var.flatten_all()?.detach(), count, config)?;
            Ok(y)
        }
    }
}

/// `max(batch_norm_train(x) + residual, 0)` of `x` and `residual` (N, C, H, W): the end of a residual block.
/// Gradients reach the residual as well. On CUDA the sum takes no pass of its own. `config.relu` is ignored.
///
/// # Errors
/// The errors of [`batch_norm_train`], and if the residual does not have x's shape and type.
pub fn batch_norm_train_add_relu(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    running: &RunningStats,
    residual: &Tensor,
    config: &BatchNormConfig,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(y) = join_on_cuda(x, weight, bias, running, residual, config)? {
        return Ok(y);
    }
    let plain = BatchNormConfig { relu: false, ..*config };
    add_relu(&batch_norm_train(x, weight, bias, running, &plain)?, residual)
}

/// [`batch_norm_train_add_relu`] as one operation, where CUDA's kernels compute on `x` and there is a tape;
/// else `None`: candle's graph has no operation of four inputs.
#[cfg(feature = "cuda")]
fn join_on_cuda(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    running: &RunningStats,
    residual: &Tensor,
    config: &BatchNormConfig,
) -> Result<Option<Tensor>> {
    use crate::devices::cuda::memory::{cuda, tensor};
    use crate::layout::to_nhwc;
    use crate::shape::check_same;
    use crate::train::tape::{record, recording};
    if Backend::of(x) != Backend::Cuda || !recording() {
        return Ok(None);
    }
    check(x, weight, bias, &running.mean, &running.var)?;
    check_same("batch_norm_train_add_relu", x, residual)?;
    check_count(x.shape())?;
    let relu = BatchNormConfig { relu: true, ..*config };
    let op = BatchNorm::new(&relu, [&running.mean, &running.var], true);
    let y = {
        let (values, layout) = x.storage_and_layout();
        let (weight, weight_layout) = weight.storage_and_layout();
        let (bias, bias_layout) = bias.storage_and_layout();
        let (residual, residual_layout) = residual.storage_and_layout();
        let parameters = [(cuda(&weight)?, weight_layout), (cuda(&bias)?, bias_layout)];
        op.forward((cuda(&values)?, layout), parameters, Some((cuda(&residual)?, residual_layout)))?
    };
    let (n, c, h, w) = x.dims4()?;
    let y = from_nhwc(&tensor(y, (n, h, w, c)))?;
    let mut needed = false;
    for input in [x, weight, bias, residual] {
        needed |= needs_gradient("batch_norm_train_add_relu", input)?;
    }
    if needed {
        let inputs = [x, weight, bias, residual].map(Tensor::clone);
        let output = y.detach();
        record(&y, move |gradient| {
            let gradient = to_nhwc(gradient)?;
            let gradients = op.gradients(&inputs[0], &inputs[1], Some(&output), &gradient)?;
            Ok(inputs.iter().cloned().zip(gradients).collect())
        });
    }
    Ok(Some(y))
}

/// Normalises `x` (N, C, H, W) by the given `mean` and `var` (C), as in evaluation; otherwise as
/// [`batch_norm_train`]. Gradients reach `x`, `weight` and `bias`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn batch_norm_eval(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    config: &BatchNormConfig,
) -> Result<Tensor> {
    check(x, weight, bias, mean, var)?;
    match Backend::of(x) {
        #[cfg(feature = "cuda")]
        Backend::Cuda => {
            let op = BatchNorm::new(config, [mean, var], false);
            apply3(x, weight, bias, op, Output::ChannelsLast)
        }
        Backend::Cpu => {
            let values = |t: &Tensor| t.to_dtype(DType::F64)?.to_vec1::<f64>();
            let inv_std = inverse_std(&values(var)?, config.eps);
            let stats = Stats { mean: values(mean)?, inv_std, count: 0 };
            normalise(x, weight, bias, stats, false, config.relu)
        }
        _ => {
            let (mean, var) = (mean.detach().reshape((1, (), 1, 1))?, var.detach().reshape((1, (), 1, 1))?);
            let centred = cast(x, weight.dtype())?.broadcast_sub(&mean)?;
            cast(&composite(&centred, &var, weight, bias, config)?, x.dtype())
        }
    }
}

/// The last steps of normalisation by candle's operations: `centred` is x - mean, `var` the variance
/// (1, C, 1, 1).
fn composite(
    centred: &Tensor,
    var: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    config: &BatchNormConfig,
) -> Result<Tensor> {
    let normal = centred.broadcast_div(&(var + config.eps)?.sqrt()?)?;
    let y = normal.broadcast_mul(&weight.reshape((1, (), 1, 1))?)?.broadcast_add(&bias.reshape((
        1,
        (),
        1,
        1,
    ))?)?;
    Ok(if config.relu { y.relu()? } else { y })
}

/// Checks that parameters and statistics are (C) and have the type of `x` (N, C, H, W), or are master copies.
fn check(x: &Tensor, weight: &Tensor, bias: &Tensor, mean: &Tensor, var: &Tensor) -> Result<()> {
    const OP: &str = "batch_norm";
    check_rank(OP, x)?;
    let channels = x.dim(1)?;
    for (input, t) in [("weight", weight), ("bias", bias), ("running mean", mean), ("running variance", var)]
    {
        if t.dims() != [channels] {
            let expected = format!("[{channels}], one per channel of x");
            return Err(Error::Shape { op: OP, input, expected, got: t.shape().clone() });
        }
        if t.dtype() != x.dtype() && !is_master(t.dtype(), x) {
            let expected = format!("{:?}, the type of x", x.dtype());
            return Err(Error::DType { op: OP, input, expected, got: t.dtype() });
        }
    }
    Ok(())
}

/// The mean and biased variance of each channel.
fn batch_statistics(x: &Tensor) -> Result<(Vec<f64>, Vec<f64>)> {
    fn inner<T: Element>(storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(Vec<f64>, Vec<f64>)> {
        let x = channels_last::<T>(storage, layout)?;
        let channels = layout.shape().dims4()?.1;
        Ok(T::mean_and_variance(Isa::current(), &x, channels))
    }
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => {
            let storage = upcast(storage);
            let storage: &CpuStorage = &storage;
            Ok(with_float!(storage, inner(storage, layout))?)
        }
        _ => unreachable!("the CPU computes it"),
    }
}

/// Applies [`Normalise`], on the tape or in candle's graph.
fn normalise(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stats: Stats,
    training: bool,
    relu: bool,
) -> Result<Tensor> {
    let op = Normalise {
        stats,
        training,
        relu,
        input_gradient: needs_gradient("batch_norm", x)?,
        sums: OnceLock::new(),
    };
    apply3(x, weight, bias, op, Output::ChannelsLast)
}

/// Mean and 1/√(variance + eps) per channel.
struct Stats {
    mean: Vec<f64>,
    inv_std: Vec<f64>,
    /// The values per channel that they are of; 0 if they are constants.
    count: usize,
}

/// Normalisation by given statistics as a custom op of `x` (N, C, H, W), weight and bias; returns
/// (N, H, W, C).
struct Normalise {
    stats: Stats,
    /// Whether the statistics came from `x` itself, so that its gradient flows through them too.
    training: bool,
    relu: bool,
    input_gradient: bool,
    /// Σ g and Σ g·x̂ per channel, set by the backward pass.
    sums: OnceLock<(Vec<f64>, Vec<f64>)>,
}

impl CustomOp3 for Normalise {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            op: &Normalise,
            s: [&CpuStorage; 3],
            l: [&Layout; 3],
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            let x = channels_last::<T>(s[0], l[0])?;
            let (weight, bias) = (row_major::<T>(s[1], l[1])?, row_major::<T>(s[2], l[2])?);
            let (n, c, h, w) = l[0].shape().dims4()?;
            let Stats { mean, inv_std, .. } = &op.stats;
            let line = |k: usize| scale_and_shift(weight[k].as_f64(), bias[k].as_f64(), mean[k], inv_std[k]);
            let [scale, shift] = [0, 1].map(|i| (0..c).map(|k| T::of_f64(line(k)[i])).collect::<Vec<T>>());
            let y = T::scale_shift(Isa::current(), &x, &scale, &shift, op.relu);
            Ok((T::to_cpu_storage_owned(y), (n, h, w, c).into()))
        }
        with_upcast!([s1, s2, s3], inner(self, [s1, s2, s3], [l1, l2, l3]))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let op = NormaliseGradient { forward: self, weight: weight.to_dtype(DType::F64)?.to_vec1()? };
        let grad_x = x.apply_op3_no_bwd(y, grad, &op)?;
        let grad_x = self.input_gradient.then(|| from_nhwc(&grad_x)).transpose()?;
        let (sum_g, sum_gx) = self.sums.get().expect("NormaliseGradient sets them");
        let tensor =
            |v: &[f64], like: &Tensor| Tensor::from_slice(v, v.len(), like.device())?.to_dtype(like.dtype());
        Ok((grad_x, Some(tensor(sum_gx, weight)?), Some(tensor(sum_g, bias)?)))
    }
}

/// The gradient (N, H, W, C) of `x`, from `x` (N, C, H, W), the output and its gradient, both (N, H, W, C).
struct NormaliseGradient<'a> {
    forward: &'a Normalise,
    weight: Vec<f64>,
}

impl NormaliseGradient<'_> {
    /// The gradient of `x`, from the gradient `g` of ReLU's input, both (N, H, W, C), and its sums.
    fn input_gradient<T: Element>(&self, x: &[T], g: &[T], sums: [&[f64]; 2]) -> Result<Vec<T>> {
        let (Stats { mean, inv_std, count }, c) = (&self.forward.stats, self.weight.len());
        let sums = self.forward.training.then(|| gradient_sums_of_all_processes(sums)).transpose()?;
        let coefficients = |k: usize| match &sums {
            Some([sum_g, sum_gx]) => {
                gradient_coefficients(self.weight[k], mean[k], inv_std[k], [sum_g[k], sum_gx[k]], *count)
            }
            // The statistics are constants.
            None => [self.weight[k] * inv_std[k], 0.0, 0.0],
        };
        let [a, b, d] = [0, 1, 2].map(|i| (0..c).map(|k| T::of_f64(coefficients(k)[i])).collect::<Vec<T>>());
        Ok(T::combine(Isa::current(), g, x, [&a, &b, &d]))
    }
}

impl CustomOp3 for NormaliseGradient<'_> {
    fn name(&self) -> &'static str {
        "batch_norm-gradient"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            op: &NormaliseGradient,
            s: [&CpuStorage; 3],
            l: [&Layout; 3],
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            let x = channels_last::<T>(s[0], l[0])?;
            let (y, grad) = (row_major::<T>(s[1], l[1])?, row_major::<T>(s[2], l[2])?);
            let (n, c, h, w) = l[0].shape().dims4()?;
            let Normalise { stats, relu, input_gradient, sums, .. } = op.forward;
            let mean: Vec<T> = stats.mean.iter().map(|&m| T::of_f64(m)).collect();
            // ReLU lets the gradient pass where the output is positive.
            let (isa, gate) = (Isa::current(), relu.then_some(&y[..]));
            let (sum_g, sum_gx) = T::channel_sums(isa, &grad, gate, &x, &mean);
            let out = if *input_gradient {
                let gated = gate.map(|y| T::where_positive(isa, c, y, &grad));
                let out = op.input_gradient(&x, gated.as_deref().unwrap_or(&grad), [&sum_g, &sum_gx])?;
                (T::to_cpu_storage_owned(out), (n, h, w, c).into())
            } else {
                (T::to_cpu_storage_owned(Vec::new()), (0, 0, 0, 0).into())
            };
            let of_normalised = sum_gx.iter().zip(&stats.inv_std).map(|(sum, inv)| sum * inv).collect();
            let _ = sums.set((sum_g, of_normalised));
            Ok(out)
        }
        with_upcast!([s1, s2, s3], inner(self, [s1, s2, s3], [l1, l2, l3]))
    }
}
