//! The network that classifies photos, in one of its forms.

use super::args::Args;
use crate::classifier::Classifier;
use crate::dtype_arg::{Dtype, file_of};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use resnext_model::{AnyFused, Architecture, BaselineNetwork, ResNext};

/// How much each region of an image contributed to a class, as `[row][column]`, from 0 to 1.
pub type Map = Vec<Vec<f32>>;

pub enum Network {
    /// The fast form, for the CPU.
    Fused(AnyFused),
    /// The form that any device computes, and that keeps its last feature map for heat maps.
    Whole(Box<ResNext>),
    /// An Inception or VGG, on any device.
    Baseline(Box<BaselineNetwork>),
}

impl Network {
    pub fn new(classifier: &Classifier, args: &Args, device: &Device) -> Result<Self> {
        let builder = classifier.pretrained.weights.builder(DType::F32, device);
        let architecture = &classifier.pretrained.network;
        let ranges = args.dtype.ranges(args.ranges.as_deref())?;
        Ok(match args.heatmap {
            None if device.is_cpu() => {
                args.dtype.say_how();
                let network = AnyFused::new(architecture, builder, args.dtype.into(), ranges.as_ref());
                Network::Fused(match ranges {
                    Some(_) => network.with_context(|| file_of(args.ranges.as_deref()))?,
                    None => network?,
                })
            }
            _ if args.dtype != Dtype::F32 => {
                bail!("--dtype {} needs the CPU and cannot be used with --heatmap", args.dtype.name())
            }
            _ => match architecture {
                Architecture::Baseline { baseline, classes } if args.heatmap.is_none() => {
                    Network::Baseline(Box::new(BaselineNetwork::new(*baseline, *classes, builder)?))
                }
                _ => Network::Whole(Box::new(ResNext::new(architecture.config()?, builder)?)),
            },
        })
    }

    /// The logits of one image (1, 3, H, W) and, with `heatmap`, the map of its most likely class.
    pub fn classify(&self, x: &Tensor, heatmap: bool) -> Result<(Vec<f32>, Option<Map>)> {
        let values = |logits: Tensor| logits.flatten_all()?.to_vec1();
        Ok(match self {
            Network::Fused(network) => (values(network.forward(x)?)?, None),
            Network::Baseline(network) => (values(network.forward(x, false)?)?, None),
            Network::Whole(network) if !heatmap => (values(network.forward(x, false)?)?, None),
            Network::Whole(network) => {
                let (logits, map) = network.grad_cam(x, None)?;
                (values(logits)?, Some(map.squeeze(0)?.to_vec2()?))
            }
        })
    }
}
