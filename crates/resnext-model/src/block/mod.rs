//! The residual block y = relu(x + Σ T_i(x)), in the three forms of figure 3.

mod concatenated;
mod grouped;
mod paths;
mod shortcut;

use crate::config::{BlockSize, Config, Form};
use crate::layers::{BatchNorm, Conv, ConvSize, Folded, join};
use crate::{Mode, Result};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::{Bottleneck, ConvNorm};
use shortcut::ShortcutPath;

/// What one of the forms computes: the sum of all paths, normalised, before the shortcut is added.
pub(crate) trait Transform: std::fmt::Debug + Send + Sync {
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

/// A residual block of any form.
#[derive(Debug)]
pub struct Block {
    transform: Box<dyn Transform>,
    shortcut: ShortcutPath,
    /// The whole block as one operation, in training.
    fused: Option<Bottleneck>,
}

impl Block {
    /// Builds a block of `config`'s form from the weights under `vb`.
    ///
    /// # Errors
    /// If a weight is missing or of the wrong shape, or blocks of this kind don't have the form.
    pub fn new(size: &BlockSize, config: &Config, vb: VarBuilder) -> Result<Self> {
        size.kind.check_form(config.form)?;
        let last_scale = if config.zero_init_last { 0.0 } else { 1.0 };
        let shortcut = ShortcutPath::new(size, config.shortcut, vb.pp("downsample"))?;
        let transform: Box<dyn Transform> = match config.form {
            Form::A => Box::new(paths::Paths::new(size, last_scale, vb)?),
            Form::B => Box::new(concatenated::Concatenated::new(size, last_scale, vb)?),
            Form::C => Box::new(grouped::Grouped::new(size, last_scale, vb)?),
        };
        let fused = match (transform.convs().try_into(), &shortcut) {
            (_, ShortcutPath::Padded(..)) | (Err(_), _) => None,
            (Ok(convs), shortcut) => {
                Some(Bottleneck { convs, projection: shortcut.projection(), recompute: false })
            }
        };
        Ok(Block { transform, shortcut, fused })
    }

    /// The convolutions of [`Transform::fold`], and the shortcut's if it has one.
    pub(crate) fn fold(&self) -> Result<(Vec<Folded>, Option<Folded>)> {
        Ok((self.transform.fold()?, self.shortcut.fold()?))
    }

    /// Whether training gives up the convolutions' results after the forward pass and computes them again in the
    /// backward one: less memory for more time. Only bottleneck blocks of form (c) do.
    pub(crate) fn set_recompute(&mut self, recompute: bool) {
        if let Some(fused) = &mut self.fused {
            fused.recompute = recompute;
        }
    }

    /// From (N, input, H, W) to (N, output, H/stride, W/stride).
    ///
    /// # Errors
    /// If `x` has another number of channels.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        if let (Mode::Train, Some(fused)) = (mode, &self.fused)
            && fused.takes(x)
        {
            return Ok(fused.forward_train(x)?);
        }
        self.transform.forward_joined(x, &self.shortcut.forward(x, mode)?, mode)
    }
}

/// The start that forms (a) and (b) share: one path's 1×1 and 3×3, each with batch norm and ReLU.
#[derive(Debug)]
struct PathStart {
    conv1: Conv,
    bn1: BatchNorm,
    conv2: Conv,
    bn2: BatchNorm,
}

impl PathStart {
    fn new(size: &BlockSize, vb: VarBuilder) -> Result<Self> {
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
    fn fold<'a>(paths: impl Iterator<Item = &'a PathStart>) -> Result<[Folded; 2]> {
        let paths: Vec<&PathStart> = paths.collect();
        let fold = |of: fn(&PathStart) -> Result<Folded>| {
            Folded::grouped(&paths.iter().map(|path| of(path)).collect::<Result<Vec<_>>>()?)
        };
        let (first, second) = (fold(|p| p.conv1.fold(&p.bn1))?, fold(|p| p.conv2.fold(&p.bn2))?);
        Ok([first, second.in_groups(paths.len())])
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.bn1.forward(&self.conv1.forward(x)?, mode, true)?;
        self.bn2.forward(&self.conv2.forward(&x)?, mode, true)
    }
}
