//! The shortcut of a block.

use crate::config::{BlockSize, Shortcut};
use crate::error::Result;
use crate::folded::FoldedConv;
use crate::layers::{BatchNorm, Conv};
use crate::mode::Mode;
use crate::pools::HALVING;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::{Conv2dConfig, avg_pool2d, conv2d};

/// How a block's input reaches its output.
#[derive(Debug)]
pub(super) enum ShortcutPath {
    /// The input itself, where input and output have the same shape.
    Same,
    /// A 1×1 convolution and its batch norm, `downsample.0` and `downsample.1`.
    Projection(Conv, BatchNorm),
    /// A 2×2 average with stride 2, if the map shrinks, a 1×1 convolution and its batch norm: `downsample.1` and
    /// `downsample.2`.
    Pooled { shrinks: bool, conv: Conv, bn: BatchNorm },
    /// Every `stride`th pixel, padded with zero channels: a 1×1 convolution whose weight is a constant matrix
    /// of ones and zeros, so that it needs neither an operation nor a gradient of its own.
    Padded(Tensor, Conv2dConfig),
    /// Nothing: the block is not residual.
    Absent,
}

impl ShortcutPath {
    pub(super) fn new(size: &BlockSize, kind: Shortcut, vb: VarBuilder) -> Result<Self> {
        if !size.changes_shape() && kind != Shortcut::None {
            return Ok(ShortcutPath::Same);
        }
        let &BlockSize { input, output, stride, .. } = size;
        let projection = |conv: usize, bn: usize| {
            let conv = Conv::new(size.projection(kind), vb.pp(conv))?;
            Ok::<_, crate::error::Error>((conv, BatchNorm::new(output, 1.0, vb.pp(bn))?))
        };
        Ok(match kind {
            Shortcut::Projection => {
                let (conv, bn) = projection(0, 1)?;
                ShortcutPath::Projection(conv, bn)
            }
            Shortcut::Pooled => {
                let (conv, bn) = projection(1, 2)?;
                ShortcutPath::Pooled { shrinks: stride > 1, conv, bn }
            }
            Shortcut::Identity => {
                let shape = (output, input, 1, 1);
                let weight = Tensor::from_vec(size.identity_weight(), shape, vb.device())?;
                let config = Conv2dConfig { stride, ..Default::default() };
                ShortcutPath::Padded(weight.to_dtype(vb.dtype())?, config)
            }
            Shortcut::None => ShortcutPath::Absent,
        })
    }

    /// From (N, input, H, W) to (N, output, ⌈H/stride⌉, ⌈W/stride⌉); `None` if there is no shortcut.
    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Option<Tensor>> {
        Ok(Some(match self {
            ShortcutPath::Same => x.clone(),
            ShortcutPath::Projection(conv, bn) => bn.forward(&conv.forward(x)?, mode)?,
            ShortcutPath::Pooled { shrinks: true, conv, bn } => {
                bn.forward(&conv.forward(&avg_pool2d(x, &HALVING)?)?, mode)?
            }
            ShortcutPath::Pooled { conv, bn, .. } => bn.forward(&conv.forward(x)?, mode)?,
            ShortcutPath::Padded(weight, config) => conv2d(x, weight, config)?,
            ShortcutPath::Absent => return Ok(None),
        }))
    }

    /// Whether an average over 2×2 pixels comes before the shortcut's convolution.
    pub(super) fn is_pooled(&self) -> bool {
        matches!(self, ShortcutPath::Pooled { shrinks: true, .. })
    }

    /// The name of the shortcut's convolution.
    pub(super) fn layer(&self) -> &'static str {
        if matches!(self, ShortcutPath::Pooled { .. }) { "downsample.1" } else { "downsample.0" }
    }

    /// The shortcut's convolution, if it has one, with the batch norm after it folded in.
    pub(super) fn fold(&self) -> Result<Option<FoldedConv>> {
        Ok(match self {
            ShortcutPath::Same | ShortcutPath::Absent => None,
            ShortcutPath::Projection(conv, bn) | ShortcutPath::Pooled { conv, bn, .. } => {
                Some(conv.fold(bn)?)
            }
            ShortcutPath::Padded(weight, config) => Some(FoldedConv::without_bias(weight, config)?),
        })
    }
}
