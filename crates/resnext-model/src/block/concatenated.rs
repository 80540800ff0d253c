//! Form (b): C paths, concatenated after the 3×3 convolution, then one 1×1.

use super::transform::{PathStart, Transform};
use crate::config::{BlockSize, ConvSize};
use crate::error::Result;
use crate::folded::FoldedConv;
use crate::layers::{BatchNorm, Conv};
use crate::mode::Mode;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::cat_channels;

/// The paths of figure 3 (b), whose concatenated outputs go through one last convolution.
#[derive(Debug)]
pub(super) struct Concatenated {
    paths: Vec<PathStart>,
    conv3: Conv,
}

impl Concatenated {
    pub(super) fn new(size: &BlockSize, vb: VarBuilder) -> Result<Self> {
        let path = |i: usize| PathStart::new(size, vb.pp("paths").pp(i));
        Ok(Concatenated {
            paths: (0..size.cardinality).map(path).collect::<Result<_>>()?,
            conv3: Conv::new(ConvSize::dense(size.inner(), size.output, 1), vb.pp("conv3"))?,
        })
    }
}

impl Transform for Concatenated {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let outputs = self.paths.iter().map(|path| path.forward(x, mode)).collect::<Result<Vec<_>>>()?;
        self.conv3.forward(&cat_channels(&outputs)?)
    }

    fn fold(&self, last_norm: &BatchNorm) -> Result<Vec<FoldedConv>> {
        let [reduce, spatial] = PathStart::fold(self.paths.iter())?;
        Ok(vec![reduce, spatial, self.conv3.fold(last_norm)?])
    }
}
