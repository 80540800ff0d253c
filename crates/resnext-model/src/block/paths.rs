//! Form (a): C explicit paths, summed.

use super::transform::{PathStart, Transform};
use crate::config::{BlockSize, ConvSize};
use crate::error::Result;
use crate::folded::Folded;
use crate::layers::{BatchNorm, Conv};
use crate::mode::Mode;
use candle_core::Tensor;
use candle_nn::VarBuilder;

/// Figure 3 (a). Batch norm follows the sum, as the paper's section 4 asks: "in (a), BN is employed
/// after aggregating the transformations and before adding to the shortcut".
#[derive(Debug)]
pub(super) struct Paths {
    paths: Vec<(PathStart, Conv)>,
    bn3: BatchNorm,
}

impl Paths {
    pub(super) fn new(size: &BlockSize, last_scale: f64, vb: VarBuilder) -> Result<Self> {
        let path = |i: usize| {
            let vb = vb.pp("paths").pp(i);
            let expand = ConvSize::dense(size.path, size.output, 1);
            Ok((PathStart::new(size, vb.clone())?, Conv::new(expand, vb.pp("conv3"))?))
        };
        let paths = (0..size.cardinality).map(path).collect::<Result<_>>()?;
        Ok(Paths { paths, bn3: BatchNorm::new(size.output, last_scale, vb.pp("bn3"))? })
    }
}

impl Transform for Paths {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let path = |(start, conv3): &(PathStart, Conv)| conv3.forward(&start.forward(x, mode)?);
        let outputs = self.paths.iter().map(path).collect::<Result<Vec<_>>>()?;
        self.bn3.forward(&resnext_ops::sum(&outputs)?, mode, false)
    }

    fn fold(&self) -> Result<Vec<Folded>> {
        let [first, second] = PathStart::fold(self.paths.iter().map(|(start, _)| start))?;
        let last: Vec<&Conv> = self.paths.iter().map(|(_, conv3)| conv3).collect();
        Ok(vec![first, second, Conv::side_by_side(&last)?.fold(&self.bn3)?])
    }
}
