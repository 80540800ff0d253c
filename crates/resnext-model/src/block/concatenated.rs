//! Form (b): C paths, concatenated after the 3×3 convolution, then one 1×1.

use super::transform::{PathStart, Transform};
use crate::config::{BlockSize, ConvSize};
use crate::error::Result;
use crate::folded::Folded;
use crate::layers::{BatchNorm, Conv};
use crate::mode::Mode;
use candle_core::Tensor;
use candle_nn::VarBuilder;

/// Figure 3 (b).
#[derive(Debug)]
pub(super) struct Concatenated {
    paths: Vec<PathStart>,
    conv3: Conv,
    bn3: BatchNorm,
}

impl Concatenated {
    pub(super) fn new(size: &BlockSize, last_scale: f64, vb: VarBuilder) -> Result<Self> {
        let path = |i: usize| PathStart::new(size, vb.pp("paths").pp(i));
        Ok(Concatenated {
            paths: (0..size.cardinality).map(path).collect::<Result<_>>()?,
            conv3: Conv::new(ConvSize::dense(size.inner(), size.output, 1), vb.pp("conv3"))?,
            bn3: BatchNorm::new(size.output, last_scale, vb.pp("bn3"))?,
        })
    }
}

impl Transform for Concatenated {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let outputs = self.paths.iter().map(|path| path.forward(x, mode)).collect::<Result<Vec<_>>>()?;
        let x = self.conv3.forward(&resnext_ops::cat_channels(&outputs)?)?;
        self.bn3.forward(&x, mode, false)
    }

    fn fold(&self) -> Result<Vec<Folded>> {
        let [first, second] = PathStart::fold(self.paths.iter())?;
        Ok(vec![first, second, self.conv3.fold(&self.bn3)?])
    }
}
