//! Squeeze and excitation (Hu et al., arXiv 1709.01507): the means of all channels, through two layers, give a
//! factor for each channel.

use crate::error::Result;
use crate::folded::f32_values;
use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use resnext_ops::{cast, global_avg_pool, linear, relu, sigmoid};

/// The layers `fc1` and `fc2`, which timm keeps as 1×1 convolutions with a bias.
#[derive(Debug)]
pub(crate) struct SqueezeExcite {
    /// Weight (hidden, C, 1, 1) and bias (hidden).
    fc1: (Tensor, Tensor),
    /// Weight (C, hidden, 1, 1) and bias (C).
    fc2: (Tensor, Tensor),
}

/// The units of the hidden layer: `channels / reduction`, rounded to a multiple of 8 as timm does, and at
/// least 8.
pub(crate) fn hidden(channels: usize, reduction: usize) -> usize {
    ((channels as f64 / reduction as f64 + 4.0) as usize / 8 * 8).max(8)
}

impl SqueezeExcite {
    /// Weights start with He's normal initialisation by fan-out, as all convolutions do, and biases at 0.
    pub(crate) fn new(channels: usize, reduction: usize, vb: VarBuilder) -> Result<Self> {
        let hidden = hidden(channels, reduction);
        let layer = |name: &str, input: usize, output: usize| -> Result<_> {
            let vb = vb.pp(name);
            let init = Init::Randn { mean: 0.0, stdev: (2.0 / output as f64).sqrt() };
            Ok((
                vb.get_with_hints((output, input, 1, 1), "weight", init)?,
                vb.get_with_hints(output, "bias", Init::Const(0.0))?,
            ))
        };
        Ok(SqueezeExcite { fc1: layer("fc1", channels, hidden)?, fc2: layer("fc2", hidden, channels)? })
    }

    /// The factors (N, C) for maps `x` (N, C, H, W), of x's type: equations (2) and (3) of that paper.
    pub(crate) fn factors(&self, x: &Tensor) -> Result<Tensor> {
        let means = cast(&global_avg_pool(x)?, self.fc1.0.dtype())?;
        let hidden = relu(&linear(&means, &self.fc1.0, Some(&self.fc1.1))?)?;
        let factors = sigmoid(&linear(&hidden, &self.fc2.0, Some(&self.fc2.1))?)?;
        Ok(cast(&factors, x.dtype())?)
    }

    /// The form that inference computes.
    pub(crate) fn fold(&self) -> Result<FoldedSqueezeExcite> {
        let layer = |(weight, bias): &(Tensor, Tensor)| -> Result<_> {
            let (outputs, inputs, ..) = weight.dims4()?;
            Ok((f32_values(&weight.reshape((outputs, inputs))?.t()?)?, f32_values(bias)?))
        };
        Ok(FoldedSqueezeExcite { fc1: layer(&self.fc1)?, fc2: layer(&self.fc2)? })
    }
}

/// The layers in inference, in f32. Weights are stored by input, so that the sums of all outputs grow together.
#[derive(Debug)]
pub(crate) struct FoldedSqueezeExcite {
    /// Weight `[input][output]` and bias.
    fc1: (Vec<f32>, Vec<f32>),
    fc2: (Vec<f32>, Vec<f32>),
}

impl FoldedSqueezeExcite {
    /// The logits of one image's channel factors, from the channels' means.
    pub(crate) fn logits(&self, means: &[f32]) -> Vec<f32> {
        let layer = |(weight, bias): &(Vec<f32>, Vec<f32>), inputs: &[f32]| {
            let mut sums = bias.clone();
            for (&input, weights) in inputs.iter().zip(weight.chunks_exact(bias.len())) {
                for (sum, &weight) in sums.iter_mut().zip(weights) {
                    *sum += input * weight;
                }
            }
            sums
        };
        let mut hidden = layer(&self.fc1, means);
        // Written so that NaN stays NaN.
        hidden.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x });
        layer(&self.fc2, &hidden)
    }

    /// The size of the weights in bytes.
    pub(crate) fn bytes(&self) -> usize {
        [&self.fc1, &self.fc2].iter().map(|(weight, bias)| 4 * (weight.len() + bias.len())).sum()
    }
}
