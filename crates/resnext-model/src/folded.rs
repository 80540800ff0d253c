//! A convolution with the batch norm behind it in its weights, as inference takes it.

use crate::calibration::Ranges;
use crate::error::Result;
use candle_core::{DType, Tensor};
use resnext_ops::{Conv2dConfig, FusedConv};

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
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
    pub(crate) config: Conv2dConfig,
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
