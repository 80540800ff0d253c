//! What the operations with batch normalisation share: running statistics, and formulas.

use crate::config::BatchNormConfig;
use crate::error::{Error, Result};
use candle_core::{Tensor, Var};

/// The mean and variance per channel (C) used in evaluation, averaged over training batches.
#[derive(Debug, Clone)]
pub struct RunningStats {
    /// Running mean.
    pub mean: Var,
    /// Running variance, of the unbiased estimate.
    pub var: Var,
}

impl RunningStats {
    /// Moves both towards a batch's mean and biased variance over `count` values a channel.
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

/// Values a channel.
pub(crate) fn check_count(x: &Tensor) -> Result<usize> {
    let (n, _, h, w) = x.dims4()?;
    let count = n * h * w;
    if count < 2 {
        let expected = "more than one value a channel when training".to_string();
        return Err(Error::Shape { op: "batch_norm", input: "x", expected, got: x.shape().clone() });
    }
    Ok(count)
}

pub(crate) fn inverse_std(var: &[f64], eps: f64) -> Vec<f64> {
    var.iter().map(|v| 1.0 / (v + eps).sqrt()).collect()
}
