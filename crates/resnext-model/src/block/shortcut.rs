//! The shortcut of a block.

use crate::config::{BlockSize, Shortcut};
use crate::error::Result;
use crate::folded::FoldedConv;
use crate::layers::{BatchNorm, Conv};
use crate::mode::Mode;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::{Conv2dConfig, conv2d};

/// How a block's input reaches its output.
#[derive(Debug)]
pub(super) enum ShortcutPath {
    /// The input itself, where input and output have the same shape.
    Same,
    /// A 1×1 convolution and its batch norm, `downsample.0` and `downsample.1`.
    Projection(Conv, BatchNorm),
    /// Every `stride`th pixel, padded with zero channels: a 1×1 convolution whose weight is a constant matrix
    /// of ones and zeros, so that it needs neither an operation nor a gradient of its own.
    Padded(Tensor, Conv2dConfig),
}

impl ShortcutPath {
    pub(super) fn new(size: &BlockSize, kind: Shortcut, vb: VarBuilder) -> Result<Self> {
        if !size.changes_shape() {
            return Ok(ShortcutPath::Same);
        }
        let &BlockSize { input, output, stride, .. } = size;
        Ok(match kind {
            Shortcut::Projection => {
                let conv = Conv::new(size.projection(), vb.pp(0))?;
                ShortcutPath::Projection(conv, BatchNorm::new(output, 1.0, vb.pp(1))?)
            }
            Shortcut::Identity => {
                let shape = (output, input, 1, 1);
                let weight = Tensor::from_vec(size.identity_weight(), shape, vb.device())?;
                let config = Conv2dConfig { stride, ..Default::default() };
                ShortcutPath::Padded(weight.to_dtype(vb.dtype())?, config)
            }
        })
    }

    /// From (N, input, H, W) to (N, output, ⌈H/stride⌉, ⌈W/stride⌉).
    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match self {
            ShortcutPath::Same => Ok(x.clone()),
            ShortcutPath::Projection(conv, bn) => bn.forward(&conv.forward(x)?, mode),
            ShortcutPath::Padded(weight, config) => Ok(conv2d(x, weight, config)?),
        }
    }

    /// The shortcut's convolution, if it has one, with the batch norm behind it folded in.
    pub(super) fn fold(&self) -> Result<Option<FoldedConv>> {
        Ok(match self {
            ShortcutPath::Same => None,
            ShortcutPath::Projection(conv, bn) => Some(conv.fold(bn)?),
            ShortcutPath::Padded(weight, config) => Some(FoldedConv::without_bias(weight, config)?),
        })
    }
}
