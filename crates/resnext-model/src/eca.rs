//! Efficient channel attention (Wang et al., arXiv 1910.03151): a convolution along the means of the channels
//! gives a factor for each.

use crate::error::Result;
use crate::folded::f32_values;
use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use resnext_ops::{cast, conv1d_channels, global_avg_pool, sigmoid};

/// The convolution `conv`: weight (1, 1, k).
#[derive(Debug)]
pub(crate) struct Eca {
    weight: Tensor,
}

/// The kernel size for a number of channels: the next odd number from (log2 C + 1) / 2, rounded down, and at least 3
/// (equation (12) of that paper, as timm rounds it).
pub(crate) fn kernel(channels: usize) -> usize {
    let size = (((channels as f64).log2() + 1.0).abs() / 2.0) as usize;
    (size | 1).max(3)
}

impl Eca {
    /// Weights start uniform within ±1/√k, as PyTorch's convolutions do.
    pub(crate) fn new(channels: usize, vb: VarBuilder) -> Result<Self> {
        let kernel = kernel(channels);
        let bound = 1.0 / (kernel as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        Ok(Eca { weight: vb.pp("conv").get_with_hints((1, 1, kernel), "weight", init)? })
    }

    /// The factors (N, C) for maps `x` (N, C, H, W), of x's type.
    pub(crate) fn factors(&self, x: &Tensor) -> Result<Tensor> {
        let means = cast(&global_avg_pool(x)?, self.weight.dtype())?;
        Ok(cast(&sigmoid(&conv1d_channels(&means, &self.weight)?)?, x.dtype())?)
    }

    /// The form that inference computes.
    pub(crate) fn fold(&self) -> Result<FoldedEca> {
        Ok(FoldedEca { weight: f32_values(&self.weight)? })
    }
}

/// The convolution in inference, in f32.
#[derive(Debug)]
pub(crate) struct FoldedEca {
    weight: Vec<f32>,
}

impl FoldedEca {
    /// The logits of one image's channel factors, from the channels' means.
    pub(crate) fn logits(&self, means: &[f32]) -> Vec<f32> {
        let reach = self.weight.len() / 2;
        let logit = |channel: usize| {
            let taps = self.weight.iter().enumerate().filter_map(|(j, weight)| {
                let mean = means.get((channel + j).checked_sub(reach)?)?;
                Some(weight * mean)
            });
            taps.sum::<f32>()
        };
        (0..means.len()).map(logit).collect()
    }

    /// The size of the weights in bytes.
    pub(crate) fn bytes(&self) -> usize {
        4 * self.weight.len()
    }
}
