//! The way around a block.

use crate::config::{BlockSize, Shortcut};
use crate::error::Result;
use crate::folded::Folded;
use crate::layers::{BatchNorm, Conv};
use crate::mode::Mode;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::{Conv2dConfig, ConvNorm, conv2d};

/// How a block's input reaches its output.
#[derive(Debug)]
pub(super) enum ShortcutPath {
    /// The input itself, where shapes are equal.
    Same,
    /// 1×1 convolution and batch norm (`downsample.0`, `downsample.1`).
    Projection(Conv, BatchNorm),
    /// Every `stride`th pixel and zeros for new channels: a 1×1 convolution by a fixed matrix of
    /// ones and zeros, so that it needs no operation, and no gradient, of its own.
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
                let copies = |i: usize| if i / input == i % input { 1f64 } else { 0.0 };
                let matrix: Vec<f64> = (0..output * input).map(copies).collect();
                let matrix =
                    Tensor::from_vec(matrix, (output, input, 1, 1), vb.device())?.to_dtype(vb.dtype())?;
                ShortcutPath::Padded(matrix, Conv2dConfig { stride, ..Default::default() })
            }
        })
    }

    /// The convolution there is on the way, with its batch norm folded in.
    pub(super) fn fold(&self) -> Result<Option<Folded>> {
        Ok(match self {
            ShortcutPath::Same => None,
            ShortcutPath::Projection(conv, bn) => Some(conv.fold(bn)?),
            ShortcutPath::Padded(matrix, config) => Some(Folded::plain(matrix, config)?),
        })
    }

    /// The convolution there is on the way, with the batch norm behind it.
    pub(super) fn projection(&self) -> Option<ConvNorm> {
        match self {
            ShortcutPath::Projection(conv, bn) => Some(conv.with_norm(bn)),
            ShortcutPath::Same | ShortcutPath::Padded(..) => None,
        }
    }

    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match self {
            ShortcutPath::Same => Ok(x.clone()),
            ShortcutPath::Projection(conv, bn) => bn.forward(&conv.forward(x)?, mode, false),
            ShortcutPath::Padded(matrix, config) => Ok(conv2d(x, matrix, config)?),
        }
    }
}
