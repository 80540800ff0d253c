//! Form (c): all paths in one grouped 3×3 convolution. This is torchvision's form, and the fast one.

use super::transform::Transform;
use crate::config::BlockSize;
use crate::error::Result;
use crate::folded::FoldedConv;
use crate::layers::{BatchNorm, Conv};
use crate::mode::Mode;
use crate::variants::AntiAlias;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::ConvBn;

/// Figure 3 (c): a chain of convolutions with batch norm and ReLU between them: three in a bottleneck block,
/// two in a basic one.
#[derive(Debug)]
pub(super) struct Grouped {
    /// The convolutions before the last, each with the batch norm after it.
    layers: Vec<(Conv, BatchNorm)>,
    last: Conv,
    /// The pool that takes the place of the stride, and the number of the layer that it follows.
    pool: Option<(usize, AntiAlias)>,
}

impl Grouped {
    pub(super) fn new(size: &BlockSize, vb: VarBuilder) -> Result<Self> {
        let sizes = size.convs();
        let conv = |i: usize| Conv::new(sizes[i - 1], vb.pp(format!("conv{i}")));
        let layer =
            |i: usize| Ok((conv(i)?, BatchNorm::new(sizes[i - 1].output, 1.0, vb.pp(format!("bn{i}")))?));
        let layers = (1..sizes.len()).map(layer).collect::<Result<_>>()?;
        let pool = size.anti_alias_layer().map(|layer| (layer, size.anti_alias));
        Ok(Grouped { layers, last: conv(sizes.len())?, pool })
    }

    /// Each convolution with the batch norm after it.
    fn with_norms<'a>(&'a self, last_norm: &'a BatchNorm) -> impl Iterator<Item = (&'a Conv, &'a BatchNorm)> {
        self.layers.iter().map(|(conv, bn)| (conv, bn)).chain([(&self.last, last_norm)])
    }
}

impl Transform for Grouped {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut y = x.clone();
        for (i, (conv, bn)) in self.layers.iter().enumerate() {
            y = bn.forward_relu(&conv.forward(&y)?, mode)?;
            if let Some((layer, pool)) = self.pool
                && layer == i
            {
                y = pool.halve(&y)?;
            }
        }
        self.last.forward(&y)
    }

    fn fold(&self, last_norm: &BatchNorm) -> Result<Vec<FoldedConv>> {
        self.with_norms(last_norm).map(|(conv, bn)| conv.fold(bn)).collect()
    }

    fn chain(&self, last_norm: &BatchNorm) -> Option<Vec<ConvBn>> {
        if self.pool.is_some() {
            return None;
        }
        Some(self.with_norms(last_norm).map(|(conv, bn)| conv.with_norm(bn)).collect())
    }
}
