//! Form (a): C explicit paths, summed.

use super::transform::{PathStart, Transform};
use crate::config::{BlockSize, ConvSize};
use crate::error::Result;
use crate::folded::FoldedConv;
use crate::layers::{BatchNorm, Conv};
use crate::mode::Mode;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::sum;

/// Figure 3 (a). The last batch norm follows the sum, as section 4 of the paper says: "BN is employed after
/// aggregating the transformations and before adding to the shortcut".
#[derive(Debug)]
pub(super) struct Paths {
    /// The first two layers of each path, and its last convolution.
    paths: Vec<(PathStart, Conv)>,
}

impl Paths {
    pub(super) fn new(size: &BlockSize, vb: VarBuilder) -> Result<Self> {
        let path = |i: usize| {
            let vb = vb.pp("paths").pp(i);
            let expand = ConvSize::dense(size.path, size.output, 1);
            Ok((PathStart::new(size, vb.clone())?, Conv::new(expand, vb.pp("conv3"))?))
        };
        Ok(Paths { paths: (0..size.cardinality).map(path).collect::<Result<_>>()? })
    }
}

impl Transform for Paths {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let path = |(start, conv3): &(PathStart, Conv)| conv3.forward(&start.forward(x, mode)?);
        let outputs = self.paths.iter().map(path).collect::<Result<Vec<_>>>()?;
        Ok(sum(&outputs)?)
    }

    fn fold(&self, last_norm: &BatchNorm) -> Result<Vec<FoldedConv>> {
        let [reduce, spatial] = PathStart::fold(self.paths.iter().map(|(start, _)| start))?;
        let expand: Vec<&Conv> = self.paths.iter().map(|(_, conv3)| conv3).collect();
        Ok(vec![reduce, spatial, Conv::summed(&expand)?.fold(last_norm)?])
    }
}
