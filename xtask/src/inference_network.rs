//! A network for inference on a CPU, whatever it is.

use crate::dtype_arg::Dtype;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_model::{Architecture, Fused, FusedBaseline, Ranges, Result};

/// A network with packed weights.
pub enum InferenceNetwork {
    /// A ResNet or ResNeXt.
    ResNext(Box<Fused>),
    /// An Inception or VGG.
    Baseline(Box<FusedBaseline>),
}

impl InferenceNetwork {
    /// Builds the network to compute in `dtype`, with the result of [`Dtype::ranges`].
    pub fn new(
        network: &Architecture,
        weights: VarBuilder,
        dtype: Dtype,
        ranges: Option<&Ranges>,
    ) -> Result<Self> {
        Ok(match (network, ranges) {
            (_, Some(ranges)) => Fused::quantized(network.config()?, weights, ranges)?.into(),
            (Architecture::ResNext(config), None) => Fused::new(config, weights, dtype.into())?.into(),
            (Architecture::Baseline { baseline, classes }, None) => {
                let network = FusedBaseline::new(*baseline, *classes, weights, dtype.into())?;
                InferenceNetwork::Baseline(Box::new(network))
            }
        })
    }

    /// The logits (N, classes) of images `x` (N, 3, H, W).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            InferenceNetwork::ResNext(network) => network.forward(x),
            InferenceNetwork::Baseline(network) => network.forward(x),
        }
    }
}

impl From<Fused> for InferenceNetwork {
    fn from(network: Fused) -> Self {
        InferenceNetwork::ResNext(Box::new(network))
    }
}
