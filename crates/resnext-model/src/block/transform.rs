//! T(x), what a block adds to its shortcut, and the part of it that forms (a) and (b) share.

use crate::config::{BlockSize, ConvSize};
use crate::error::Result;
use crate::folded::FoldedConv;
use crate::layers::{BatchNorm, Conv};
use crate::mode::Mode;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::ConvBn;

/// Σ T_i(x) of equation (3) in one of the three forms, without the batch norm that follows the sum: that one
/// is the same in every form, and belongs to the block.
///
/// To add a form: implement this trait in a file of its own; give [`Form`](crate::config::Form) a variant, a
/// name in its `FromStr` and `Display`, and [`Block::new`](super::Block::new) an arm; teach
/// [`convert`](crate::convert) its weight names, `weights/infer.rs` how to recognise it, and
/// `BlockKind::check_form` which blocks have it; add it to the lists of forms in `equivalence/`, so that it
/// is proved, too, and in the tests.
pub(super) trait Transform: std::fmt::Debug + Send + Sync {
    /// From (N, input, H, W) to (N, output, ⌈H/stride⌉, ⌈W/stride⌉).
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor>;

    /// The equivalent convolutions in form (c), first to last, each with the batch norm after it folded in.
    /// `last_norm` is the one after the last.
    fn fold(&self, last_norm: &BatchNorm) -> Result<Vec<FoldedConv>>;

    /// The convolutions, each with the batch norm after it, if T is a chain of them with ReLU in between,
    /// which fused training can compute; otherwise `None`. `last_norm` is the batch norm after the last.
    fn chain(&self, _last_norm: &BatchNorm) -> Option<Vec<ConvBn>> {
        None
    }
}

/// The first two layers of one path in forms (a) and (b): 1×1 and 3×3, each with batch norm and ReLU.
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

    /// From (N, input, H, W) to (N, path, ⌈H/stride⌉, ⌈W/stride⌉).
    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let y = self.bn1.forward_relu(&self.conv1.forward(x)?, mode)?;
        self.bn2.forward_relu(&self.conv2.forward(&y)?, mode)
    }

    /// The two layers of all paths as the dense 1×1 and the grouped 3×3 of form (c).
    pub(super) fn fold<'a>(paths: impl Iterator<Item = &'a PathStart>) -> Result<[FoldedConv; 2]> {
        let paths: Vec<&PathStart> = paths.collect();
        let joined = |layer: fn(&PathStart) -> Result<FoldedConv>| {
            FoldedConv::joined(&paths.iter().map(|path| layer(path)).collect::<Result<Vec<_>>>()?)
        };
        let reduce = joined(|path| path.conv1.fold(&path.bn1))?;
        let spatial = joined(|path| path.conv2.fold(&path.bn2))?;
        Ok([reduce, spatial.in_groups(paths.len())])
    }
}
