//! Convolutions as inference computes them: with the batch norm after each folded into its weights.

use crate::calibration::Ranges;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use resnext_ops::{Conv2dConfig, FusedConv};

/// The type in which inference keeps feature maps and weights.
#[derive(Clone, Copy)]
pub(crate) enum InferenceType<'a> {
    /// f32 or bf16.
    Float(DType),
    /// int8 weights, and u8 feature maps of these ranges.
    Int8(&'a Ranges),
}

/// The elements of a parameter, row by row, in f32.
pub(crate) fn f32_values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// A convolution with a bias, into which the batch norm after it has been folded.
pub(crate) struct FoldedConv {
    /// (Cout, Cin/groups, k, k).
    weight: Tensor,
    /// (Cout).
    bias: Tensor,
    config: Conv2dConfig,
}

impl FoldedConv {
    /// A convolution of `weight` (Cout, Cin/groups, k, k) and `bias` (Cout).
    pub(crate) fn new(weight: Tensor, bias: Tensor, config: Conv2dConfig) -> Self {
        FoldedConv { weight, bias, config }
    }

    /// A convolution without a bias.
    pub(crate) fn without_bias(weight: &Tensor, config: &Conv2dConfig) -> Result<Self> {
        let bias = Tensor::zeros(weight.dim(0)?, weight.dtype(), weight.device())?;
        Ok(FoldedConv { weight: weight.clone(), bias, config: *config })
    }

    /// The convolutions of all paths as one, which gives their outputs side by side.
    pub(crate) fn joined(paths: &[FoldedConv]) -> Result<Self> {
        let joined =
            |part: fn(&FoldedConv) -> &Tensor| Tensor::cat(&paths.iter().map(part).collect::<Vec<_>>(), 0);
        let config = paths.first().map(|path| path.config).unwrap_or_default();
        Ok(FoldedConv { weight: joined(|path| &path.weight)?, bias: joined(|path| &path.bias)?, config })
    }

    /// The same weights with the input channels split into `groups` groups.
    pub(crate) fn in_groups(mut self, groups: usize) -> Self {
        self.config.groups = groups;
        self
    }

    /// The convolution for an input that is padded already, and the width of that padding.
    pub(crate) fn without_padding(mut self) -> (Self, usize) {
        let padding = std::mem::take(&mut self.config.padding);
        (self, padding)
    }

    pub(crate) fn stride(&self) -> usize {
        self.config.stride
    }

    /// Packs the convolution to read images, in f32 or bf16.
    pub(crate) fn pack_for_images(&self, dtype: DType) -> Result<FusedConv> {
        Ok(FusedConv::of_images(&self.weight, &self.bias, &self.config, dtype)?)
    }

    /// Packs the convolution to read the map that layer `from` writes and to write the map of layer `to`.
    ///
    /// # Errors
    /// If this machine does not compute in `dtype`, or the range of one of the maps is missing.
    pub(crate) fn pack(&self, dtype: InferenceType, from: &str, to: &str) -> Result<FusedConv> {
        let FoldedConv { weight, bias, config } = self;
        Ok(match dtype {
            InferenceType::Float(dtype) => FusedConv::new(weight, bias, config, dtype)?,
            InferenceType::Int8(ranges) => {
                let (input, output) = (ranges.quantization(from)?, ranges.quantization(to)?);
                FusedConv::quantized(weight, bias, config, input, output)?
            }
        })
    }
}
