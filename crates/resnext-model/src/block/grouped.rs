//! Form (c): one grouped 3×3 convolution. The form torchvision has, and the fast one.

use super::transform::Transform;
use crate::config::BlockSize;
use crate::error::Result;
use crate::folded::Folded;
use crate::layers::{BatchNorm, Conv};
use crate::mode::Mode;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::ConvNorm;

/// Figure 3 (c): convolutions one behind the other, each with batch norm, and with ReLU between them. Three of them
/// are a bottleneck block, two a basic one.
#[derive(Debug)]
pub(super) struct Grouped {
    before: Vec<(Conv, BatchNorm)>,
    last: (Conv, BatchNorm),
}

impl Grouped {
    pub(super) fn new(size: &BlockSize, last_scale: f64, vb: VarBuilder) -> Result<Self> {
        let sizes = size.convs();
        let layer = |i: usize| {
            let scale = if i == sizes.len() { last_scale } else { 1.0 };
            let conv = Conv::new(sizes[i - 1], vb.pp(format!("conv{i}")))?;
            Ok((conv, BatchNorm::new(sizes[i - 1].output, scale, vb.pp(format!("bn{i}")))?))
        };
        let before = (1..sizes.len()).map(layer).collect::<Result<_>>()?;
        Ok(Grouped { before, last: layer(sizes.len())? })
    }

    fn layers(&self) -> impl Iterator<Item = &(Conv, BatchNorm)> {
        self.before.iter().chain([&self.last])
    }

    /// Up to the last batch norm.
    fn before_norm(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let next = |x: Tensor, (conv, bn): &(Conv, BatchNorm)| bn.forward(&conv.forward(&x)?, mode, true);
        let x = self.before.iter().try_fold(x.clone(), next)?;
        self.last.0.forward(&x)
    }
}

impl Transform for Grouped {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.last.1.forward(&self.before_norm(x, mode)?, mode, false)
    }

    fn forward_joined(&self, x: &Tensor, shortcut: &Tensor, mode: Mode) -> Result<Tensor> {
        self.last.1.forward_joined(&self.before_norm(x, mode)?, shortcut, mode)
    }

    fn fold(&self) -> Result<Vec<Folded>> {
        self.layers().map(|(conv, bn)| conv.fold(bn)).collect()
    }

    fn convs(&self) -> Vec<ConvNorm> {
        self.layers().map(|(conv, bn)| conv.with_norm(bn)).collect()
    }
}
