//! The layers that networks consist of, under torchvision's names.

use crate::config::{Config, ConvSize, StemLayer};
use crate::error::Result;
use crate::folded::FoldedConv;
use crate::mode::Mode;
use crate::random_function::{Key, channel_functions};
use candle_core::{DType, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use resnext_ops::{
    BatchNormConfig, Conv2dConfig, ConvBn, RunningStats, add, add_relu, batch_norm_eval, batch_norm_train,
    batch_norm_train_add_relu, conv2d, modulo,
};

/// A convolution without bias: `weight` (Cout, Cin/groups, k, k).
#[derive(Debug, Clone)]
pub(crate) struct Conv {
    weight: Tensor,
    config: Conv2dConfig,
}

impl Conv {
    /// Weights start with He's normal initialisation by fan-out, as in the paper's released code.
    pub(crate) fn new(size: ConvSize, vb: VarBuilder) -> Result<Self> {
        let ConvSize { input, output, kernel, stride, groups, joined_output } = size;
        let stdev = (2.0 / (kernel * kernel * joined_output) as f64).sqrt();
        let init = Init::Randn { mean: 0.0, stdev };
        let weight = vb.get_with_hints((output, input / groups, kernel, kernel), "weight", init)?;
        Ok(Conv { weight, config: Conv2dConfig { stride, padding: kernel / 2, dilation: 1, groups } })
    }

    /// The convolutions of all paths as one, which reads their inputs side by side and sums their outputs.
    pub(crate) fn summed(paths: &[&Conv]) -> Result<Conv> {
        let config = paths.first().map(|path| path.config).unwrap_or_default();
        let weights: Vec<&Tensor> = paths.iter().map(|path| &path.weight).collect();
        Ok(Conv { weight: Tensor::cat(&weights, 1)?, config })
    }

    /// Folds the batch norm after this convolution, with its running statistics, into weights and bias.
    pub(crate) fn fold(&self, bn: &BatchNorm) -> Result<FoldedConv> {
        let (scale, bias) = bn.scale_shift()?;
        let dtype = self.weight.dtype();
        let scale = scale.to_dtype(dtype)?.reshape(((), 1, 1, 1))?;
        let weight = self.weight.detach().broadcast_mul(&scale)?;
        Ok(FoldedConv::new(weight, bias.to_dtype(dtype)?, self.config))
    }

    /// This convolution and the batch norm after it, as fused training operations take them.
    pub(crate) fn with_norm(&self, bn: &BatchNorm) -> ConvBn {
        ConvBn {
            weight: self.weight.clone(),
            conv: self.config,
            scale_shift: (bn.weight.clone(), bn.bias.clone()),
            running: bn.running.clone(),
            norm: bn.config,
        }
    }

    /// From (N, Cin, H, W) to (N, Cout, ⌈H/stride⌉, ⌈W/stride⌉).
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(conv2d(x, &self.weight, &self.config)?)
    }
}

/// Batch normalisation of C channels. In [`Mode::Polynomial`] it does nothing but reduce modulo the prime,
/// and so does the ReLU after it. In [`Mode::ChannelFunctions`] it is a random function of each channel.
#[derive(Debug, Clone)]
pub(crate) struct BatchNorm {
    /// The scale (C).
    weight: Tensor,
    /// The shift (C).
    bias: Tensor,
    running: RunningStats,
    /// eps and momentum: PyTorch's defaults, but the eps of the Inceptions.
    config: BatchNormConfig,
}

impl BatchNorm {
    /// A batch norm whose scale starts at `scale`: 0 at the end of blocks that start as identities, otherwise
    /// 1.
    pub(crate) fn new(channels: usize, scale: f64, vb: VarBuilder) -> Result<Self> {
        let get = |name: &str, value: f64| vb.get_with_hints(channels, name, Init::Const(value));
        Ok(BatchNorm {
            weight: get("weight", scale)?,
            bias: get("bias", 0.0)?,
            running: RunningStats {
                mean: Var::from_tensor(&get("running_mean", 0.0)?)?,
                var: Var::from_tensor(&get("running_var", 1.0)?)?,
            },
            config: BatchNormConfig::default(),
        })
    }

    /// The same batch norm with another number added to the variance.
    pub(crate) fn with_eps(mut self, eps: f64) -> Self {
        self.config.eps = eps;
        self
    }

    /// The scale and shift of each channel in evaluation: two tensors (C) of f64.
    pub(crate) fn scale_shift(&self) -> Result<(Tensor, Tensor)> {
        let wide = |t: &Tensor| t.detach().to_dtype(DType::F64);
        let scale = (wide(&self.weight)? / (wide(&self.running.var)? + self.config.eps)?.sqrt()?)?;
        let shift = (wide(&self.bias)? - (wide(&self.running.mean)? * &scale)?)?;
        Ok((scale, shift))
    }

    /// bn(x), of the shape of `x` (N, C, H, W).
    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.normalise(x, mode, false)
    }

    /// relu(bn(x)).
    pub(crate) fn forward_relu(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.normalise(x, mode, true)
    }

    /// relu(bn(x) + shortcut): the end of a residual block.
    pub(crate) fn forward_add_relu(&self, x: &Tensor, shortcut: &Tensor, mode: Mode) -> Result<Tensor> {
        let BatchNorm { weight, bias, running, config } = self;
        Ok(match mode {
            Mode::Train => batch_norm_train_add_relu(x, weight, bias, running, shortcut, config)?,
            Mode::Eval => add_relu(&self.forward(x, mode)?, shortcut)?,
            Mode::Polynomial { modulus } => modulo(&add(&self.forward(x, mode)?, shortcut)?, modulus)?,
            Mode::ChannelFunctions { modulus } => {
                let y = add(&self.forward(x, mode)?, shortcut)?;
                channel_functions(&y, modulus, &self.function_keys(Role::BlockEnd)?)?
            }
        })
    }

    fn normalise(&self, x: &Tensor, mode: Mode, relu: bool) -> Result<Tensor> {
        let BatchNorm { weight, bias, running, .. } = self;
        let config = BatchNormConfig { relu, ..self.config };
        Ok(match mode {
            Mode::Train => batch_norm_train(x, weight, bias, running, &config)?,
            Mode::Eval => batch_norm_eval(x, weight, bias, &running.mean, &running.var, &config)?,
            Mode::Polynomial { modulus } => modulo(x, modulus)?,
            Mode::ChannelFunctions { modulus } => {
                let role = if relu { Role::NormAndRelu } else { Role::Norm };
                channel_functions(x, modulus, &self.function_keys(role)?)?
            }
        })
    }

    /// The names of the functions that stand for this batch norm, one per channel: its own parameters, so that they
    /// follow the channel from form to form.
    fn function_keys(&self, role: Role) -> Result<Vec<Key>> {
        let BatchNorm { weight, bias, running, .. } = self;
        let values = |t: &Tensor| t.detach().to_dtype(DType::F64)?.to_vec1::<f64>();
        let parameters = [weight, bias, running.mean.as_tensor(), running.var.as_tensor()];
        let [weight, bias, mean, var] = parameters.map(values);
        let (weight, bias, mean, var) = (weight?, bias?, mean?, var?);
        let parameters = weight.iter().zip(&bias).zip(mean.iter().zip(&var));
        let key = |((w, b), (m, v)): ((&f64, &f64), (&f64, &f64))| {
            [*w as i32, *b as i32, *m as i32, *v as i32, role as i32]
        };
        Ok(parameters.map(key).collect())
    }
}

/// The part that a random function replaces.
#[derive(Clone, Copy)]
enum Role {
    /// A batch norm with the ReLU after it.
    NormAndRelu,
    /// A batch norm before a sum, or of a projection.
    Norm,
    /// The ReLU after the sum at the end of a block.
    BlockEnd,
}

/// The convolutions of the stem, each with the batch norm after it: `conv1` and `bn1`, or three of them.
pub(crate) fn stem(config: &Config, vb: &VarBuilder) -> Result<Vec<(Conv, BatchNorm)>> {
    let layer = |StemLayer { conv, norm, size }: StemLayer| {
        Ok((Conv::new(size, vb.pp(conv))?, BatchNorm::new(size.output, 1.0, vb.pp(norm))?))
    };
    config.stem_layers().into_iter().map(layer).collect()
}

/// The last layer, `fc`: weight (classes, features) and bias (classes).
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
