//! The layers blocks are made of, under torchvision's names.

use crate::config::{Config, ConvSize};
use crate::error::Result;
use crate::folded::Folded;
use crate::mode::Mode;
use candle_core::{DType, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use resnext_ops::{
    BatchNormConfig, Conv2dConfig, ConvNorm, RunningStats, add, add_relu, batch_norm_eval, batch_norm_train,
    batch_norm_train_add_relu, conv2d, residue,
};

/// A convolution without bias: `weight` (Cout, Cin/groups, k, k).
#[derive(Debug, Clone)]
pub(crate) struct Conv {
    weight: Tensor,
    config: Conv2dConfig,
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

    /// One convolution of all paths' last ones, which reads their outputs side by side.
    pub(crate) fn side_by_side(paths: &[&Conv]) -> Result<Conv> {
        let config = paths.first().map(|path| path.config).unwrap_or_default();
        let weights: Vec<&Tensor> = paths.iter().map(|path| &path.weight).collect();
        Ok(Conv { weight: Tensor::cat(&weights, 1)?, config })
    }

    /// Takes the batch norm behind this convolution, by its running statistics, into the weights.
    pub(crate) fn fold(&self, bn: &BatchNorm) -> Result<Folded> {
        let eps = BatchNormConfig::default().eps;
        let wide = |t: &Tensor| t.detach().to_dtype(DType::F64);
        let scale = (wide(&bn.weight)? / (wide(&bn.running.var)? + eps)?.sqrt()?)?;
        let bias = (wide(&bn.bias)? - (wide(&bn.running.mean)? * &scale)?)?;
        let dtype = self.weight.dtype();
        let scale = scale.to_dtype(dtype)?.reshape(((), 1, 1, 1))?;
        let weight = self.weight.detach().broadcast_mul(&scale)?;
        Ok(Folded { weight, bias: bias.to_dtype(dtype)?, config: self.config })
    }

    /// With the batch norm behind it, as fused training operations take them.
    pub(crate) fn with_norm(&self, bn: &BatchNorm) -> ConvNorm {
        ConvNorm {
            weight: self.weight.clone(),
            conv: self.config,
            scale_shift: (bn.weight.clone(), bn.bias.clone()),
            running: bn.running.clone(),
        }
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

    /// The end of a block, whose sum with the shortcut follows.
    pub(crate) fn forward_joined(&self, x: &Tensor, shortcut: &Tensor, mode: Mode) -> Result<Tensor> {
        match mode {
            Mode::Train => {
                let (weight, bias, running) = (&self.weight, &self.bias, &self.running);
                let config = BatchNormConfig::default();
                Ok(batch_norm_train_add_relu(x, weight, bias, running, shortcut, &config)?)
            }
            _ => join(&self.forward(x, mode, false)?, shortcut, mode),
        }
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

/// The sum of a block's two ways, through what takes ReLU's place in the mode.
pub(crate) fn join(y: &Tensor, shortcut: &Tensor, mode: Mode) -> Result<Tensor> {
    Ok(match mode {
        Mode::Train | Mode::Eval => add_relu(y, shortcut)?,
        Mode::Polynomial { modulus } => residue(&add(y, shortcut)?, modulus)?,
    })
}

/// The first convolution and its batch norm.
pub(crate) fn entrance(config: &Config, vb: &VarBuilder) -> Result<(Conv, BatchNorm)> {
    Ok((Conv::new(config.entrance(), vb.pp("conv1"))?, BatchNorm::new(config.planes, 1.0, vb.pp("bn1"))?))
}

/// Weight and bias of the last layer.
pub(crate) fn head(config: &Config, vb: &VarBuilder) -> Result<(Tensor, Tensor)> {
    let features = config.features();
    let bound = 1.0 / (features as f64).sqrt();
    let init = Init::Uniform { lo: -bound, up: bound };
    let vb = vb.pp("fc");
    Ok((
        vb.get_with_hints((config.classes, features), "weight", init)?,
        vb.get_with_hints(config.classes, "bias", init)?,
    ))
}
