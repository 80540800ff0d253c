//! Batch normalisation's formulas and running statistics, which the single operation and the fused blocks
//! share.
//!
//! All formulas are per channel and in f64; a caller rounds their results to the type it computes in.

use crate::config::BatchNormConfig;
use crate::error::{Error, Result};
use candle_core::{Shape, Tensor, Var};

/// The mean and variance per channel (C) that evaluation normalises by: running averages over training
/// batches.
#[derive(Debug, Clone)]
pub struct RunningStats {
    /// The running average of the mean, (C).
    pub mean: Var,
    /// The running average of the unbiased variance, (C).
    pub var: Var,
}

impl RunningStats {
    /// Moves both towards a batch's mean and biased variance over `count` values per channel.
    pub(crate) fn update(
        &self,
        mean: &[f64],
        variance: &[f64],
        count: usize,
        config: &BatchNormConfig,
    ) -> Result<()> {
        let tensor =
            |v: &[f64]| Tensor::from_slice(v, v.len(), self.mean.device())?.to_dtype(self.mean.dtype());
        self.blend(tensor(mean)?, tensor(variance)?, count, config)
    }

    /// [`Self::update`] from tensors (C).
    pub(crate) fn blend(
        &self,
        mean: Tensor,
        variance: Tensor,
        count: usize,
        config: &BatchNormConfig,
    ) -> Result<()> {
        let unbiased = count as f64 / (count - 1) as f64;
        for (running, batch, scale) in [(&self.mean, mean, 1.0), (&self.var, variance, unbiased)] {
            let kept = (running.as_detached_tensor() * (1.0 - config.momentum))?;
            running.set(&(kept + (batch * (config.momentum * scale))?)?)?;
        }
        Ok(())
    }
}

/// The number of values per channel of a batch (N, C, H, W), which needs at least two to have a variance.
pub(crate) fn check_count(x: &Shape) -> Result<usize> {
    let (n, _, h, w) = x.dims4()?;
    let count = n * h * w;
    if count < 2 {
        let expected = "more than one value per channel when training".to_string();
        return Err(Error::Shape { op: "batch_norm", input: "x", expected, got: x.clone() });
    }
    Ok(count)
}

/// 1/σ of each channel, where σ² = variance + eps.
pub(crate) fn inverse_std(variance: &[f64], eps: f64) -> Vec<f64> {
    variance.iter().map(|v| 1.0 / (v + eps).sqrt()).collect()
}

/// `[scale, shift]` such that `scale·x + shift = weight·(x - mean)/σ + bias`.
pub(crate) fn scale_and_shift(weight: f64, bias: f64, mean: f64, inv_std: f64) -> [f64; 2] {
    let scale = weight * inv_std;
    [scale, bias - scale * mean]
}

/// `[a, b, d]` such that `a·g + b·x + d` is the gradient of `x` through the batch's own statistics, where `g`
/// is the gradient of the result, and `sum_g` = Σ g and `sum_gx` = Σ g·(x - mean) run over the channel's
/// `count` values.
pub(crate) fn gradient_coefficients(
    weight: f64,
    mean: f64,
    inv_std: f64,
    [sum_g, sum_gx]: [f64; 2],
    count: usize,
) -> [f64; 3] {
    let count = count as f64;
    let a = weight * inv_std;
    let b = -a * inv_std * inv_std * sum_gx / count;
    [a, b, -a * sum_g / count - b * mean]
}
