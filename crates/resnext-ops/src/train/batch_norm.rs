//! Batch normalisation with running statistics, optionally followed by ReLU.

use crate::config::BatchNormConfig;
#[cfg(feature = "cuda")]
use crate::devices::cuda::batch_norm::BatchNorm;
#[cfg(feature = "cuda")]
use crate::devices::has_cuda_kernel;
use crate::devices::{has_cpu_kernel, is_master};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::layout::{channels_last, from_nhwc, row_major};
use crate::shape::check_rank;
use crate::train::cast::cast;
use crate::train::norm::{RunningStats, check_count, inverse_std};
use crate::train::residual::add_relu;
use crate::train::tape::{Output, apply3, needs_gradient};
use crate::train::upcast::{widened, with_float, with_widened};
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Storage, Tensor};
use resnext_kernels::Isa;
use std::sync::OnceLock;

/// Normalises each channel of `x` (N, C, H, W) by the mean and variance of this batch, then scales by
/// `weight` (C) and shifts by `bias` (C); moves the running statistics towards the batch's.
///
/// As in PyTorch the batch is normalised by its biased variance and the running variance takes the
/// unbiased one. Gradients reach `x`, `weight` and `bias`.
///
/// Mixed precision: beside `x` in bf16 or f16 the parameters and running statistics may be f32. Statistics are
/// then f32, or better, and the result has x's type.
///
/// # Errors
/// If shapes or types do not fit, or there is only one value a channel, which has no variance.
pub fn batch_norm_train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    running: &RunningStats,
    config: &BatchNormConfig,
) -> Result<Tensor> {
    check(x, weight, bias, &running.mean, &running.var)?;
    let count = check_count(x)?;
    #[cfg(feature = "cuda")]
    if has_cuda_kernel(x) {
        let op = BatchNorm::new(config, [&running.mean, &running.var], true);
        return apply3(x, weight, bias, op, Output::ChannelsLast);
    }
    if has_cpu_kernel(x) {
        let (mean, var) = batch_statistics(x)?;
        running.update(&mean, &var, count, config)?;
        let stats = Stats { inv_std: inverse_std(&var, config.eps), mean };
        return normalise(x, weight, bias, stats, true, config.relu);
    }
    let wide = cast(x, weight.dtype())?;
    let mean = wide.mean_keepdim((0, 2, 3))?;
    let centred = wide.broadcast_sub(&mean)?;
    let var = centred.sqr()?.mean_keepdim((0, 2, 3))?;
    let y = cast(&composite(&centred, &var, weight, bias, config)?, x.dtype())?;
    running.blend(mean.flatten_all()?.detach(), var.flatten_all()?.detach(), count, config)?;
    Ok(y)
}

/// `max(batch_norm_train(x) + residual, 0)`: the end of a residual block, with gradients for the residual as well. On
/// CUDA the sum takes no pass of its own. The configuration's ReLU is not looked at.
///
/// # Errors
/// Those of [`batch_norm_train`], and if the residual does not have x's shape and type.
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

/// As one operation, where CUDA's kernels take `x` and there is a tape: candle's graph takes no operation of four inputs.
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
    if !has_cuda_kernel(x) || !recording() {
        return Ok(None);
    }
    check(x, weight, bias, &running.mean, &running.var)?;
    check_same("batch_norm_train_add_relu", x, residual)?;
    check_count(x)?;
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

/// [`batch_norm_train`]'s normalisation by given statistics (C), as in evaluation.
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
    #[cfg(feature = "cuda")]
    if has_cuda_kernel(x) {
        let op = BatchNorm::new(config, [mean, var], false);
        return apply3(x, weight, bias, op, Output::ChannelsLast);
    }
    if has_cpu_kernel(x) {
        let values = |t: &Tensor| t.to_dtype(DType::F64)?.to_vec1::<f64>();
        let stats = Stats { mean: values(mean)?, inv_std: inverse_std(&values(var)?, config.eps) };
        return normalise(x, weight, bias, stats, false, config.relu);
    }
    let centred = cast(x, weight.dtype())?.broadcast_sub(&mean.detach().reshape((1, (), 1, 1))?)?;
    cast(&composite(&centred, &var.detach().reshape((1, (), 1, 1))?, weight, bias, config)?, x.dtype())
}

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

fn check(x: &Tensor, weight: &Tensor, bias: &Tensor, mean: &Tensor, var: &Tensor) -> Result<()> {
    const OP: &str = "batch_norm";
    check_rank(OP, x)?;
    let channels = x.dim(1)?;
    for (input, t) in [("weight", weight), ("bias", bias), ("running mean", mean), ("running variance", var)]
    {
        if t.dims() != [channels] {
            let expected = format!("[{channels}], one a channel of x");
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
            let storage = widened(storage);
            let storage: &CpuStorage = &storage;
            Ok(with_float!(storage, inner(storage, layout))?)
        }
        _ => unreachable!("has_cpu_kernel"),
    }
}

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

/// Mean and 1/√(variance + eps) of each channel.
struct Stats {
    mean: Vec<f64>,
    inv_std: Vec<f64>,
}

struct Normalise {
    stats: Stats,
    /// Whether the statistics came from `x` itself, so that its gradient flows through them too.
    training: bool,
    relu: bool,
    input_gradient: bool,
    /// Of the backward pass: Σ g and Σ g·x̂ a channel.
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
            // y = x·scale + shift
            let scale: Vec<T> = (0..c).map(|k| T::of_f64(weight[k].as_f64() * op.stats.inv_std[k])).collect();
            let shift: Vec<T> = (0..c)
                .map(|k| {
                    T::of_f64(bias[k].as_f64() - weight[k].as_f64() * op.stats.inv_std[k] * op.stats.mean[k])
                })
                .collect();
            let y = T::scale_shift(Isa::current(), &x, &scale, &shift, op.relu);
            Ok((T::to_cpu_storage_owned(y), (n, h, w, c).into()))
        }
        with_widened!([s1, s2, s3], inner(self, [s1, s2, s3], [l1, l2, l3]))
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
        let (sum_g, sum_gx) = self.sums.get().expect("set by the gradient's forward");
        let tensor =
            |v: &[f64], like: &Tensor| Tensor::from_slice(v, v.len(), like.device())?.to_dtype(like.dtype());
        Ok((grad_x, Some(tensor(sum_gx, weight)?), Some(tensor(sum_g, bias)?)))
    }
}

/// The gradient of `x` from `x` (N, C, H, W), the output and its gradient, both (N, H, W, C).
struct NormaliseGradient<'a> {
    forward: &'a Normalise,
    weight: Vec<f64>,
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
            let Normalise { stats, training, relu, input_gradient, sums } = op.forward;
            let mean: Vec<T> = stats.mean.iter().map(|&m| T::of_f64(m)).collect();
            let (isa, gate) = (Isa::current(), relu.then_some(&y[..]));
            let (sum_g, sum_gx) = T::channel_sums(isa, &grad, gate, &x, &mean);
            let sum_gx: Vec<f64> = sum_gx.iter().zip(&stats.inv_std).map(|(s, inv)| s * inv).collect();
            let count = (n * h * w) as f64;
            let out = if *input_gradient {
                // Training: dx = a·g + b·x + d, where a = weight/σ, b = -a/σ·Σgx̂/count, d = -a·Σg/count - b·mean.
                // Evaluation: dx = a·g.
                let coefficient = |k: usize| {
                    let a = op.weight[k] * stats.inv_std[k];
                    if !training {
                        return (a, 0.0, 0.0);
                    }
                    let b = -a * stats.inv_std[k] * sum_gx[k] / count;
                    (a, b, -a * sum_g[k] / count - b * stats.mean[k])
                };
                let a: Vec<T> = (0..c).map(|k| T::of_f64(coefficient(k).0)).collect();
                let b: Vec<T> = (0..c).map(|k| T::of_f64(coefficient(k).1)).collect();
                let d: Vec<T> = (0..c).map(|k| T::of_f64(coefficient(k).2)).collect();
                let out = match gate {
                    Some(y) => {
                        let gated = T::where_positive(isa, c, y, &grad);
                        T::combine(isa, &gated, &x, [&a, &b, &d])
                    }
                    None => T::combine(isa, &grad, &x, [&a, &b, &d]),
                };
                (T::to_cpu_storage_owned(out), (n, h, w, c).into())
            } else {
                (T::to_cpu_storage_owned(Vec::new()), (0, 0, 0, 0).into())
            };
            let _ = sums.set((sum_g, sum_gx));
            Ok(out)
        }
        with_widened!([s1, s2, s3], inner(self, [s1, s2, s3], [l1, l2, l3]))
    }
}
