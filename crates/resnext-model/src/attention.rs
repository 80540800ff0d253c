//! Channel attention: a factor for each channel of a block's branch, from the means of all of them.

use crate::eca::{Eca, FoldedEca};
use crate::error::Result;
use crate::squeeze_excite::{FoldedSqueezeExcite, SqueezeExcite};
use crate::variants::Attention;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::gate_channels;

/// The attention of a block, `se` among its weights.
#[derive(Debug)]
pub(crate) enum ChannelAttention {
    SqueezeExcite(SqueezeExcite),
    Eca(Eca),
}

impl ChannelAttention {
    /// The attention over `channels` channels; `None` if blocks have none.
    pub(crate) fn new(kind: Attention, channels: usize, vb: VarBuilder) -> Result<Option<Self>> {
        Ok(match kind {
            Attention::None => None,
            Attention::SqueezeExcite { reduction } => {
                Some(ChannelAttention::SqueezeExcite(SqueezeExcite::new(channels, reduction, vb)?))
            }
            Attention::Eca => Some(ChannelAttention::Eca(Eca::new(channels, vb)?)),
        })
    }

    /// `x` (N, C, H, W) with each channel multiplied by its factor.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let factors = match self {
            ChannelAttention::SqueezeExcite(layers) => layers.factors(x)?,
            ChannelAttention::Eca(layer) => layer.factors(x)?,
        };
        Ok(gate_channels(x, &factors)?)
    }

    /// The form that inference computes.
    pub(crate) fn fold(&self) -> Result<FoldedAttention> {
        Ok(match self {
            ChannelAttention::SqueezeExcite(layers) => FoldedAttention::SqueezeExcite(layers.fold()?),
            ChannelAttention::Eca(layer) => FoldedAttention::Eca(layer.fold()?),
        })
    }
}

/// The attention of a block in inference.
#[derive(Debug)]
pub(crate) enum FoldedAttention {
    SqueezeExcite(FoldedSqueezeExcite),
    Eca(FoldedEca),
}

impl FoldedAttention {
    /// The factors (N, C), from the means (N, C) of `channels` channels.
    pub(crate) fn factors(&self, means: &[f32], channels: usize) -> Vec<f32> {
        let logits = |means: &[f32]| match self {
            FoldedAttention::SqueezeExcite(layers) => layers.logits(means),
            FoldedAttention::Eca(layer) => layer.logits(means),
        };
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        means.chunks_exact(channels).flat_map(logits).map(sigmoid).collect()
    }

    /// The size of the weights in bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            FoldedAttention::SqueezeExcite(layers) => layers.bytes(),
            FoldedAttention::Eca(layer) => layer.bytes(),
        }
    }
}
