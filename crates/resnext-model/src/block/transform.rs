//! What the forms of a block share.

use crate::config::{BlockSize, ConvSize};
use crate::error::Result;
use crate::folded::Folded;
use crate::layers::{BatchNorm, Conv, join};
use crate::mode::Mode;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::ConvNorm;

/// What one of the forms computes: the sum of all paths, normalised, before the shortcut is added.
pub(super) trait Transform: std::fmt::Debug + Send + Sync {
    /// From (N, input, H, W) to (N, output, H/stride, W/stride).
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor>;

    /// The block's end as well: the sum with the shortcut, through ReLU.
    fn forward_joined(&self, x: &Tensor, shortcut: &Tensor, mode: Mode) -> Result<Tensor> {
        join(&self.forward(x, mode)?, shortcut, mode)
    }

    /// Its convolutions in form (c), with their batch norms folded in.
    fn fold(&self) -> Result<Vec<Folded>>;

    /// Its convolutions with their batch norms, if these are all it is made of.
    fn convs(&self) -> Vec<ConvNorm> {
        Vec::new()
    }
}

/// The start that forms (a) and (b) share: one path's 1×1 and 3×3, each with batch norm and ReLU.
#[derive(Debug)]
pub(super) struct PathStart {
    conv1: Conv,
    bn1: BatchNorm,
    conv2: Conv,
    bn2: BatchNorm,
}

impl PathStart {
    pub(super) fn new(size: &BlockSize, vb: VarBuilder) -> Result<Self> {
        let joined_output = size.inner();
        let reduce = ConvSize { joined_output, ..ConvSize::dense(size.input, size.path, 1) };
        let spatial =
            ConvSize { joined_output, stride: size.stride, ..ConvSize::dense(size.path, size.path, 3) };
        Ok(PathStart {
            conv1: Conv::new(reduce, vb.pp("conv1"))?,
            bn1: BatchNorm::new(size.path, 1.0, vb.pp("bn1"))?,
            conv2: Conv::new(spatial, vb.pp("conv2"))?,
            bn2: BatchNorm::new(size.path, 1.0, vb.pp("bn2"))?,
        })
    }

    /// Both convolutions of all paths, each as one.
    pub(super) fn fold<'a>(paths: impl Iterator<Item = &'a PathStart>) -> Result<[Folded; 2]> {
        let paths: Vec<&PathStart> = paths.collect();
        let fold = |of: fn(&PathStart) -> Result<Folded>| {
            Folded::grouped(&paths.iter().map(|path| of(path)).collect::<Result<Vec<_>>>()?)
        };
        let (first, second) = (fold(|p| p.conv1.fold(&p.bn1))?, fold(|p| p.conv2.fold(&p.bn2))?);
        Ok([first, second.in_groups(paths.len())])
    }

    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.bn1.forward(&self.conv1.forward(x)?, mode, true)?;
        self.bn2.forward(&self.conv2.forward(&x)?, mode, true)
    }
}
