//! The whole network: stem, stages of blocks, head.

use crate::block::Block;
use crate::config::{Config, Stem};
use crate::error::{Error, Result};
use crate::layers::{BatchNorm, Conv, entrance, head};
use crate::mode::Mode;
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use resnext_ops::{
    Pool2dConfig, cast, global_avg_pool, linear, max_pool2d, scope, to_channels_last, untaped,
};

/// A ResNeXt (or ResNet) that maps images (N, 3, H, W) to logits (N, classes).
///
/// Weight names are torchvision's in form (c): `conv1.weight`, `bn1.*`,
/// `layer1.0.conv2.weight`, `layer1.0.downsample.0.weight`, `fc.bias`, ….
#[derive(Debug)]
pub struct ResNext {
    pub(crate) conv1: Conv,
    pub(crate) bn1: BatchNorm,
    pub(crate) stem: Stem,
    stages: Vec<Vec<Block>>,
    pub(crate) fc: (Tensor, Tensor),
    /// Stages that are not trained, after the stem; none if the stem is.
    pub(crate) frozen: Option<usize>,
    /// What training computes in, where it is not the weights' type.
    half: Option<DType>,
}

impl ResNext {
    /// Builds the network from the weights under `vb`: new ones from
    /// [`Variables`](crate::variables::Variables), or those of a file.
    ///
    /// # Errors
    /// If the configuration is invalid, or a weight is missing or of the wrong shape.
    pub fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let (conv1, bn1) = entrance(config, &vb)?;
        let mut stages = Vec::new();
        for (s, sizes) in config.blocks().iter().enumerate() {
            let vb = vb.pp(format!("layer{}", s + 1));
            let blocks = sizes.iter().enumerate().map(|(i, size)| Block::new(size, config, vb.pp(i)));
            stages.push(blocks.collect::<Result<_>>()?);
        }
        Ok(ResNext {
            conv1,
            bn1,
            stem: config.stem,
            stages,
            fc: head(config, &vb)?,
            frozen: None,
            half: None,
        })
    }

    /// Whether training keeps of each bottleneck block of form (c) only what it puts out, and computes the rest again in the
    /// backward pass: less memory for more time, with the same results bit for bit.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.stages.iter_mut().flatten().for_each(|block| block.set_recompute(recompute));
    }

    /// Mixed precision: in training, convolutions, activations and their gradients are of type `dtype`, BF16 or F16,
    /// from the first convolution to the last map. Weights, their gradients, batch norm's statistics and the last layer
    /// stay f32, and so does evaluation. `None` computes in the weights' type again.
    ///
    /// # Errors
    /// If the weights are not f32, or `dtype` is of another kind.
    pub fn set_mixed_precision(&mut self, dtype: Option<DType>) -> Result<()> {
        let weights = self.fc.0.dtype();
        if let Some(dtype) = dtype
            && !(matches!(dtype, DType::BF16 | DType::F16) && weights == DType::F32)
        {
            let problem = format!(
                "mixed precision is BF16 or F16 beside F32 weights, not {dtype:?} beside {weights:?}"
            );
            return Err(Error::Config(problem));
        }
        self.half = dtype;
        Ok(())
    }

    /// The blocks between stem and head, stage by stage.
    pub fn stages(&self) -> &[Vec<Block>] {
        &self.stages
    }

    /// Logits (N, classes) of images `x` (N, 3, H, W). `train` makes batch norm use, and remember,
    /// this batch's statistics.
    ///
    /// # Errors
    /// If `x` is not (N, 3, H, W) of the network's type.
    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let (weight, bias) = &self.fc;
        Ok(linear(&self.embedding(x, train)?, weight, Some(bias))?)
    }

    /// What the last layer sees: the last stage's map, averaged over its pixels, (N, features). `train` is that of
    /// [`forward`](Self::forward).
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn embedding(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let maps = self.stage_maps(x, train)?;
        let last = maps.last().ok_or_else(|| Error::Config("no stages".into()))?;
        Ok(cast(&global_avg_pool(last)?, self.fc.0.dtype())?)
    }

    /// The map each stage puts out (C2 to C5 of an ImageNet network), (N, C, H, W) each.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn stage_maps(&self, x: &Tensor, train: bool) -> Result<Vec<Tensor>> {
        match x.dims() {
            &[_, 3, h, w] if h > 0 && w > 0 => {}
            _ => return Err(Error::Input(x.shape().clone())),
        }
        let mode = if train { Mode::Train } else { Mode::Eval };
        let frozen_stages = self.frozen.unwrap_or(0);
        // The one conversion to channels-last; every operation keeps to it.
        let x = to_channels_last(x)?;
        let x = match self.half {
            Some(half) if train => cast(&x, half)?,
            _ => x,
        };
        let mut x = match self.frozen {
            Some(_) => untaped(|| self.enter(&x, false))?.detach(),
            None => self.enter(&x, train)?,
        };
        let mut maps = Vec::with_capacity(self.stages.len());
        for (s, stage) in self.stages.iter().enumerate() {
            for (i, block) in stage.iter().enumerate() {
                let forward = || match s < frozen_stages {
                    true => Ok::<_, Error>(untaped(|| block.forward(&x, Mode::Eval))?.detach()),
                    false => block.forward(&x, mode),
                };
                x = scope(|| format!("layer{}.{i}", s + 1), forward)?;
            }
            maps.push(x.clone());
        }
        Ok(maps)
    }

    /// The stem, from channels-last images.
    fn enter(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let pool = Pool2dConfig { kernel: 3, stride: 2, padding: 1 };
        let entrance = resnext_ops::Stem {
            conv: self.conv1.with_norm(&self.bn1),
            pool: (self.stem == Stem::ImageNet).then_some(pool),
        };
        if train && entrance.takes(x) {
            return Ok(entrance.forward_train(x)?);
        }
        let mode = if train { Mode::Train } else { Mode::Eval };
        let x = self.bn1.forward(&self.conv1.forward(x)?, mode, true)?;
        Ok(if self.stem == Stem::ImageNet { max_pool2d(&x, &pool)? } else { x })
    }
}
