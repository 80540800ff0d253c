//! A network with its weights, whichever it is: what programs use that train and evaluate all of them alike.

use crate::architecture::Architecture;
use crate::baselines::{BaselineNetwork, FusedBaseline};
use crate::calibration::Ranges;
use crate::error::Result;
use crate::infer::Fused;
use crate::network::ResNext;
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use std::time::Duration;

/// A network as it is trained, on any device.
#[derive(Debug)]
pub enum AnyNetwork {
    /// A ResNet or ResNeXt.
    ResNext(Box<ResNext>),
    /// An Inception or VGG.
    Baseline(Box<BaselineNetwork>),
}

impl AnyNetwork {
    /// Builds the network from the weights under `vb`, as [`ResNext::new`] does.
    ///
    /// # Errors
    /// If the configuration is invalid, or a weight is missing or of the wrong shape.
    pub fn new(architecture: &Architecture, vb: VarBuilder) -> Result<Self> {
        Ok(match architecture {
            Architecture::ResNext(config) => AnyNetwork::ResNext(Box::new(ResNext::new(config, vb)?)),
            Architecture::Baseline { baseline, classes } => {
                AnyNetwork::Baseline(Box::new(BaselineNetwork::new(*baseline, *classes, vb)?))
            }
        })
    }

    /// The logits (N, classes) of images `x` (N, 3, H, W), of the weights' type. `train` is as in
    /// [`ResNext::forward`].
    ///
    /// # Errors
    /// If `x` is not (N, 3, H, W), not of the weights' type, or too small for the network's pools.
    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            AnyNetwork::ResNext(network) => network.forward(x, train),
            AnyNetwork::Baseline(network) => network.forward(x, train),
        }
    }

    /// Mixed precision, as [`ResNext::set_mixed_precision`] says.
    ///
    /// # Errors
    /// If the weights are not f32, or `dtype` is neither BF16 nor F16.
    pub fn set_mixed_precision(&mut self, dtype: Option<DType>) -> Result<()> {
        match self {
            AnyNetwork::ResNext(network) => network.set_mixed_precision(dtype),
            AnyNetwork::Baseline(network) => network.set_mixed_precision(dtype),
        }
    }

    /// The network as a ResNet or ResNeXt, if it is one: only these have stages to freeze, blocks to drop or to
    /// recompute, and a last feature map to explain a class by.
    pub fn resnext(&self) -> Option<&ResNext> {
        match self {
            AnyNetwork::ResNext(network) => Some(network),
            AnyNetwork::Baseline(_) => None,
        }
    }

    /// As [`resnext`](Self::resnext), to change its settings.
    pub fn resnext_mut(&mut self) -> Option<&mut ResNext> {
        match self {
            AnyNetwork::ResNext(network) => Some(network),
            AnyNetwork::Baseline(_) => None,
        }
    }

    /// The network for inference on a CPU, from the current weights, to compute in `dtype`, F32 or BF16.
    ///
    /// # Errors
    /// If the weights are not f32 or not on the CPU, or this machine cannot compute in `dtype`.
    pub fn fuse_to(&self, dtype: DType) -> Result<AnyFused> {
        Ok(match self {
            AnyNetwork::ResNext(network) => AnyFused::ResNext(Box::new(network.fuse_to(dtype)?)),
            AnyNetwork::Baseline(network) => AnyFused::Baseline(Box::new(network.fuse_to(dtype)?)),
        })
    }
}

/// A network for inference on a CPU, with packed weights.
#[derive(Debug)]
pub enum AnyFused {
    /// A ResNet or ResNeXt.
    ResNext(Box<Fused>),
    /// An Inception or VGG.
    Baseline(Box<FusedBaseline>),
}

impl AnyFused {
    /// Builds the network from the f32 weights under `vb`, to compute in `dtype`, F32 or BF16; with `ranges`, in int8.
    ///
    /// # Errors
    /// If a weight is missing, of the wrong shape or not f32, this machine cannot compute in the type, or the network does
    /// not compute in int8.
    pub fn new(
        architecture: &Architecture,
        vb: VarBuilder,
        dtype: DType,
        ranges: Option<&Ranges>,
    ) -> Result<Self> {
        Ok(match (architecture, ranges) {
            (_, Some(ranges)) => Fused::quantized(architecture.config()?, vb, ranges)?.into(),
            (Architecture::ResNext(config), None) => Fused::new(config, vb, dtype)?.into(),
            (Architecture::Baseline { baseline, classes }, None) => {
                AnyFused::Baseline(Box::new(FusedBaseline::new(*baseline, *classes, vb, dtype)?))
            }
        })
    }

    /// The logits (N, classes), f32, of images `x` (N, 3, H, W), f32.
    ///
    /// # Errors
    /// If `x` is not (N, 3, H, W) of f32, or too small for the network's pools.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            AnyFused::ResNext(network) => network.forward(x),
            AnyFused::Baseline(network) => network.forward(x),
        }
    }

    /// [`forward`](Self::forward), with a call of `observe` after each layer, which is given the layer's name and the time
    /// that it took. All threads compute one image after the other.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_observed(&self, x: &Tensor, observe: &mut dyn FnMut(&str, Duration)) -> Result<Tensor> {
        match self {
            AnyFused::ResNext(network) => network.forward_observed(x, observe),
            AnyFused::Baseline(network) => network.forward_observed(x, observe),
        }
    }
}

impl From<Fused> for AnyFused {
    fn from(network: Fused) -> Self {
        AnyFused::ResNext(Box::new(network))
    }
}
