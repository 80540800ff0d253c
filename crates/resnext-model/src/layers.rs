//! The layers blocks are made of, under torchvision's names.

use crate::{Mode, Result};
use candle_core::{Tensor, Var};
use candle_nn::{Init, VarBuilder};
use resnext_ops::{
    BatchNormConfig, Conv2dConfig, RunningStats, batch_norm_eval, batch_norm_train, conv2d, residue,
};

/// A convolution without bias: `weight` (Cout, Cin/groups, k, k).
#[derive(Debug, Clone)]
pub(crate) struct Conv {
    weight: Tensor,
    config: Conv2dConfig,
}

/// The sizes of a square convolution, padded so that stride 1 keeps the map's size.
#[derive(Clone, Copy)]
pub(crate) struct ConvSize {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) groups: usize,
    /// Output channels of the joined convolution this is a part of: paths start with the same
    /// distribution as the grouped convolution that equals them.
    pub(crate) joined_output: usize,
}

impl ConvSize {
    pub(crate) fn dense(input: usize, output: usize, kernel: usize) -> Self {
        ConvSize { input, output, kernel, stride: 1, groups: 1, joined_output: output }
    }
}

impl Conv {
    /// He's normal initialisation by fan-out, as in the paper's released code.
    pub(crate) fn new(size: ConvSize, vb: VarBuilder) -> Result<Self> {
        let ConvSize { input, output, kernel, stride, groups, joined_output } = size;
        let stdev = (2.0 / (kernel * kernel * joined_output) as f64).sqrt();
        let init = Init::Randn { mean: 0.0, stdev };
        let weight = vb.get_with_hints((output, input / groups, kernel, kernel), "weight", init)?;
        Ok(Conv { weight, config: Conv2dConfig { stride, padding: kernel / 2, dilation: 1, groups } })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(conv2d(x, &self.weight, &self.config)?)
    }
}

/// Batch normalisation, with ReLU after it where asked and where the mode has one.
#[derive(Debug, Clone)]
pub(crate) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running: RunningStats,
}

impl BatchNorm {
    /// Starts at the given scale: 1 everywhere but in the last of a zero-initialised block.
    pub(crate) fn new(channels: usize, scale: f64, vb: VarBuilder) -> Result<Self> {
        let get = |name: &str, value: f64| vb.get_with_hints(channels, name, Init::Const(value));
        Ok(BatchNorm {
            weight: get("weight", scale)?,
            bias: get("bias", 0.0)?,
            running: RunningStats {
                mean: Var::from_tensor(&get("running_mean", 0.0)?)?,
                var: Var::from_tensor(&get("running_var", 1.0)?)?,
            },
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, mode: Mode, relu: bool) -> Result<Tensor> {
        let config = BatchNormConfig { relu, ..Default::default() };
        let (weight, bias, running) = (&self.weight, &self.bias, &self.running);
        Ok(match mode {
            Mode::Train => batch_norm_train(x, weight, bias, running, &config)?,
            Mode::Eval => batch_norm_eval(x, weight, bias, &running.mean, &running.var, &config)?,
            Mode::Polynomial { modulus } => residue(x, modulus)?,
        })
    }
}
