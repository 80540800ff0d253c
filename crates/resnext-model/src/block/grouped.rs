//! Form (c): one grouped 3×3 convolution. The form torchvision has, and the fast one.

use super::Transform;
use crate::config::BlockSize;
use crate::layers::{BatchNorm, Conv, ConvSize, Folded};
use crate::{Mode, Result};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::ConvNorm;

/// Figure 3 (c).
#[derive(Debug)]
pub(super) struct Grouped {
    conv1: Conv,
    bn1: BatchNorm,
    conv2: Conv,
    bn2: BatchNorm,
    conv3: Conv,
    bn3: BatchNorm,
}

impl Grouped {
    pub(super) fn new(size: &BlockSize, last_scale: f64, vb: VarBuilder) -> Result<Self> {
        let inner = size.inner();
        let grouped =
            ConvSize { stride: size.stride, groups: size.cardinality, ..ConvSize::dense(inner, inner, 3) };
        Ok(Grouped {
            conv1: Conv::new(ConvSize::dense(size.input, inner, 1), vb.pp("conv1"))?,
            bn1: BatchNorm::new(inner, 1.0, vb.pp("bn1"))?,
            conv2: Conv::new(grouped, vb.pp("conv2"))?,
            bn2: BatchNorm::new(inner, 1.0, vb.pp("bn2"))?,
            conv3: Conv::new(ConvSize::dense(inner, size.output, 1), vb.pp("conv3"))?,
            bn3: BatchNorm::new(size.output, last_scale, vb.pp("bn3"))?,
        })
    }

    /// Up to the last batch norm.
    fn before_norm(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.bn1.forward(&self.conv1.forward(x)?, mode, true)?;
        let x = self.bn2.forward(&self.conv2.forward(&x)?, mode, true)?;
        self.conv3.forward(&x)
    }
}

impl Transform for Grouped {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.bn3.forward(&self.before_norm(x, mode)?, mode, false)
    }

    fn forward_joined(&self, x: &Tensor, shortcut: &Tensor, mode: Mode) -> Result<Tensor> {
        self.bn3.forward_joined(&self.before_norm(x, mode)?, shortcut, mode)
    }

    fn fold(&self) -> Result<[Folded; 3]> {
        Ok([self.conv1.fold(&self.bn1)?, self.conv2.fold(&self.bn2)?, self.conv3.fold(&self.bn3)?])
    }

    fn convs(&self) -> Option<[ConvNorm; 3]> {
        let Grouped { conv1, bn1, conv2, bn2, conv3, bn3 } = self;
        Some([conv1.with_norm(bn1), conv2.with_norm(bn2), conv3.with_norm(bn3)])
    }
}
