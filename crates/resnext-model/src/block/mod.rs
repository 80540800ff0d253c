//! The residual block y = relu(x + Σ T_i(x)), in the three forms of figure 3.

mod concatenated;
mod grouped;
mod paths;
mod shortcut;
mod transform;

use crate::config::{BlockSize, Config, Form};
use crate::error::Result;
use crate::folded::Folded;
use crate::mode::Mode;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::Bottleneck;
use shortcut::ShortcutPath;
use transform::Transform;

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
