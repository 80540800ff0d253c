//! The layers blocks are made of, under torchvision's names.

use crate::{Mode, Ranges, Result};
use candle_core::{DType, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use resnext_ops::{
    BatchNormConfig, Conv2dConfig, ConvNorm, FusedConv, RunningStats, add, add_relu, batch_norm_eval,
    batch_norm_train, batch_norm_train_add_relu, conv2d, residue,
};

/// A convolution without bias: `weight` (Cout, Cin/groups, k, k).
#[derive(Debug, Clone)]
pub(crate) struct Conv {
    weight: Tensor,
    config: Conv2dConfig,
}

/// What inference keeps maps and weights in.
#[derive(Clone, Copy)]
pub(crate) enum Numbers<'a> {
    /// f32 or bf16.
    Float(DType),
    /// Eight bits, for maps of these ranges.
    Quantized(&'a Ranges),
}

/// A convolution with the batch norm behind it in its weights.
pub(crate) struct Folded {
    weight: Tensor,
    bias: Tensor,
    config: Conv2dConfig,
}

impl Folded {
    /// A convolution with no batch norm behind it.
    pub(crate) fn plain(weight: &Tensor, config: &Conv2dConfig) -> Result<Folded> {
        let bias = Tensor::zeros(weight.dim(0)?, weight.dtype(), weight.device())?;
        Ok(Folded { weight: weight.clone(), bias, config: *config })
    }

    /// The paths of a block as one convolution, a group each.
    pub(crate) fn grouped(paths: &[Folded]) -> Result<Folded> {
        let of = |part: fn(&Folded) -> &Tensor| Tensor::cat(&paths.iter().map(part).collect::<Vec<_>>(), 0);
        let config = paths.first().map(|path| path.config).unwrap_or_default();
        Ok(Folded { weight: of(|path| &path.weight)?, bias: of(|path| &path.bias)?, config })
    }

    /// With the input channels split into so many groups.
    pub(crate) fn in_groups(mut self, groups: usize) -> Folded {
        self.config.groups = groups;
        self
    }

    /// For an input that already has its border of zeros, and how wide that is.
    pub(crate) fn without_padding(mut self) -> (Folded, usize) {
        let padding = std::mem::take(&mut self.config.padding);
        (self, padding)
    }

    /// Of the convolution.
    pub(crate) fn stride(&self) -> usize {
        self.config.stride
    }

    /// Ready for inference in f32 or bf16, from images.
    pub(crate) fn pack_for_images(&self, dtype: DType) -> Result<FusedConv> {
        Ok(FusedConv::of_images(&self.weight, &self.bias, &self.config, dtype)?)
    }

    /// Ready for inference, from the map that the one layer writes to that of the other.
    pub(crate) fn pack(&self, numbers: Numbers, from: &str, to: &str) -> Result<FusedConv> {
        let Folded { weight, bias, config } = self;
        Ok(match numbers {
            Numbers::Float(dtype) => FusedConv::new(weight, bias, config, dtype)?,
            Numbers::Quantized(ranges) => {
                let (input, output) = (ranges.quantization(from)?, ranges.quantization(to)?);
                FusedConv::quantized(weight, bias, config, input, output)?
            }
        })
    }
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
