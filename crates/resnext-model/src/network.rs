//! The whole network: stem, stages of blocks, head.

use crate::block::Block;
use crate::config::Config;
use crate::drop_path::DropPath;
use crate::error::{Error, Result};
use crate::layer_names;
use crate::layers::{BatchNorm, Conv, head, stem};
use crate::mode::{Mode, check_mixed_precision};
use crate::pools::StemPool;
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use resnext_ops::{Stem, cast, global_avg_pool, linear, scope, to_channels_last, untaped};

/// A ResNeXt or ResNet, from images (N, 3, H, W) to logits (N, classes).
///
/// Weights have torchvision's names: `conv1.weight`, `bn1.*`, `layer1.0.conv2.weight`,
/// `layer1.0.downsample.0.weight`, `fc.bias`, and so on; layers that torchvision does not have, such as
/// `layer1.0.se.fc1`, have timm's. Forms (a) and (b) have the layers of path i under
/// `layer1.0.paths.i`; [`convert`](crate::convert) goes from one form to another.
///
/// On a CPU, inference is several times faster after [`fuse`](Self::fuse).
#[derive(Debug)]
pub struct ResNext {
    pub(crate) config: Config,
    /// The stem's convolutions, each with the batch norm after it; ReLU follows.
    pub(crate) stem: Vec<(Conv, BatchNorm)>,
    stages: Vec<Vec<Block>>,
    /// Weight (classes, features) and bias (classes).
    pub(crate) fc: (Tensor, Tensor),
    /// The number of frozen stages after the frozen stem; `None` if the stem is trained too.
    pub(crate) frozen: Option<usize>,
    /// Whether batch norms keep their running statistics in training, and normalise by them.
    pub(crate) frozen_norms: bool,
    drop_path: Option<DropPath>,
    /// The type of feature maps in training, if it is not that of the weights.
    half: Option<DType>,
}

impl ResNext {
    /// Builds the network from the weights under `vb`: new ones from
    /// [`Variables::builder`](crate::variables::Variables::builder), or those of a file from
    /// [`Weights::builder`](crate::weights::Weights::builder).
    ///
    /// # Errors
    /// If the configuration is invalid, or a weight is missing or of the wrong shape.
    pub fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let stem = stem(config, &vb)?;
        let mut stages = Vec::new();
        for (s, sizes) in config.blocks().iter().enumerate() {
            let vb = vb.pp(layer_names::stage(s));
            let blocks = sizes.iter().enumerate().map(|(i, size)| Block::new(size, config, vb.pp(i)));
            stages.push(blocks.collect::<Result<_>>()?);
        }
        let fc = head(config, &vb)?;
        Ok(ResNext {
            config: config.clone(),
            stem,
            stages,
            fc,
            frozen: None,
            frozen_norms: false,
            drop_path: None,
            half: None,
        })
    }

    /// Returns the logits (N, classes) of images `x` (N, 3, H, W), of the weights' type. With `train`, batch
    /// norm uses the statistics of this batch and updates its running ones; without, it uses the running
    /// ones.
    ///
    /// # Errors
    /// If `x` is not (N, 3, H, W), or not of the weights' type.
    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let (weight, bias) = &self.fc;
        Ok(linear(&self.embedding(x, train)?, weight, Some(bias))?)
    }

    /// Returns the input of the last layer, (N, features): the last stage's map, averaged over its pixels.
    /// `train` is as in [`forward`](Self::forward).
    ///
    /// # Errors
    /// The errors of [`forward`](Self::forward).
    pub fn embedding(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let maps = self.stage_maps(x, train)?;
        let last = maps.last().ok_or_else(|| Error::Config("no stages".into()))?;
        Ok(cast(&global_avg_pool(last)?, self.fc.0.dtype())?)
    }

    /// Returns the output of each stage, (N, C, H/stride, W/stride), with [`Config::channels`] and
    /// [`Config::strides`]; sides that do not divide are rounded up. Detection and segmentation use these
    /// maps, as C2 to C5 of an ImageNet network. `train` is as in [`forward`](Self::forward).
    ///
    /// # Errors
    /// The errors of [`forward`](Self::forward).
    pub fn stage_maps(&self, x: &Tensor, train: bool) -> Result<Vec<Tensor>> {
        match x.dims() {
            &[_, 3, h, w] if h > 0 && w > 0 => {}
            _ => return Err(Error::Input(x.shape().clone())),
        }
        let mode = if train && !self.frozen_norms { Mode::Train } else { Mode::Eval };
        let blocks = self.stages.iter().map(Vec::len).sum();
        let drop_path = self.drop_path.filter(|_| train);
        let mut block_number = 0;
        // The one conversion to channels-last: every operation keeps that layout.
        let x = to_channels_last(x)?;
        let x = match self.half {
            Some(half) if train => cast(&x, half)?,
            _ => x,
        };
        let mut x = unless_frozen(self.frozen.is_some(), mode, |mode| self.forward_stem(&x, mode))?;
        let mut maps = Vec::with_capacity(self.stages.len());
        for (s, stage) in self.stages.iter().enumerate() {
            let frozen = s < self.frozen.unwrap_or(0);
            for (i, block) in stage.iter().enumerate() {
                let factors = match drop_path.filter(|_| !frozen) {
                    Some(drop_path) => drop_path.factors(block_number, blocks, &x)?,
                    None => None,
                };
                block_number += 1;
                let forward = || match &factors {
                    Some(factors) => block.forward_dropping(&x, mode, factors),
                    None => unless_frozen(frozen, mode, |mode| block.forward(&x, mode)),
                };
                x = scope(|| layer_names::block(s, i), forward)?;
            }
            maps.push(x.clone());
        }
        Ok(maps)
    }

    /// relu(bn1(conv1(x))), and the pool of ImageNet's stem, of channels-last images.
    fn forward_stem(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        if let (Mode::Train, Some(fused)) = (mode, self.fused_stem())
            && fused.supports(x)
        {
            return Ok(fused.forward_train(x)?);
        }
        let mut y = x.clone();
        for (conv, bn) in &self.stem {
            y = bn.forward_relu(&conv.forward(&y)?, mode)?;
        }
        self.config.stem_pool().forward(y)
    }

    /// The stem as one training operation. There is one for a single convolution and a max-pool.
    fn fused_stem(&self) -> Option<Stem> {
        let [(conv, bn)] = self.stem.as_slice() else { return None };
        let pool = match self.config.stem_pool() {
            StemPool::None => None,
            StemPool::Max(pool) => Some(pool),
            StemPool::Average(_) | StemPool::Blurred(_) => return None,
        };
        Some(Stem { conv: conv.with_norm(bn), pool })
    }

    /// The blocks between stem and head, stage by stage.
    pub fn stages(&self) -> &[Vec<Block>] {
        &self.stages
    }

    /// Stochastic depth in training, as [`DropPath`] says; `None` switches it off. It is set anew for every
    /// batch, with another draw. Blocks that it may drop are not computed as one fused operation.
    pub fn set_drop_path(&mut self, drop_path: Option<DropPath>) {
        self.drop_path = drop_path;
    }

    /// Gradient checkpointing: whether training keeps only the output of each bottleneck block in form (c), without
    /// attention or anti-aliasing, and recomputes the rest in the backward pass. It takes less memory and more time, with
    /// the same results bit for bit.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.stages.iter_mut().flatten().for_each(|block| block.set_recompute(recompute));
    }

    /// Mixed precision: in training, feature maps and their gradients are of type `dtype`, BF16 or F16, from
    /// the first convolution to the last stage. Weights and their gradients, the statistics of batch norm and
    /// the last layer stay f32, and so does evaluation. `None` switches it off.
    ///
    /// # Errors
    /// If the weights are not f32, or `dtype` is neither BF16 nor F16.
    pub fn set_mixed_precision(&mut self, dtype: Option<DType>) -> Result<()> {
        check_mixed_precision(dtype, self.fc.0.dtype())?;
        self.half = dtype;
        Ok(())
    }
}

/// Runs `forward` in `mode`; or, if this part of the network is frozen, in evaluation mode and without a
/// gradient.
fn unless_frozen(frozen: bool, mode: Mode, forward: impl Fn(Mode) -> Result<Tensor>) -> Result<Tensor> {
    match frozen {
        true => Ok(untaped(|| forward(Mode::Eval))?.detach()),
        false => forward(mode),
    }
}
