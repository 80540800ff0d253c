//! The residual block y = relu(x + Σ T_i(x)), equation (3) of the paper, in the three forms of figure 3.

mod concatenated;
mod grouped;
mod paths;
mod shortcut;
mod transform;

use crate::attention::{ChannelAttention, FoldedAttention};
use crate::config::{BlockKind, BlockSize, Config, Form};
use crate::error::{Error, Result};
use crate::folded::FoldedConv;
use crate::layers::BatchNorm;
use crate::mode::Mode;
use crate::variants::AntiAlias;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::{Bottleneck, add_relu, scale_images};
use shortcut::ShortcutPath;
use transform::Transform;

/// A residual block of any form.
#[derive(Debug)]
pub struct Block {
    /// The sum of the paths, Σ T_i(x).
    transform: Box<dyn Transform>,
    /// The batch norm after the sum: `bn3`, or `bn2` of a basic block.
    last_norm: BatchNorm,
    /// The attention that multiplies the channels after `last_norm`, in timm's `se` and `eca` networks.
    attention: Option<ChannelAttention>,
    /// The pool in the place of the stride, if there is one.
    anti_alias: Option<AntiAlias>,
    shortcut: ShortcutPath,
    /// The whole block as one training operation, where there is one for it.
    fused: Option<Bottleneck>,
}

impl Block {
    /// y = relu(shortcut(x) + bn(Σ T_i(x))), from (N, input, H, W) to (N, output, ⌈H/stride⌉, ⌈W/stride⌉).
    ///
    /// For a bottleneck block in form (c) this is torchvision's `Bottleneck.forward`:
    ///
    /// ```text
    /// y = relu(bn1(conv1(x)))        1×1, from `input` channels to C·d
    /// y = relu(bn2(conv2(y)))        3×3 in C groups, with the block's stride
    /// y = bn3(conv3(y))              1×1, from C·d channels to `output`
    /// y = relu(y + shortcut(x))      the shortcut is x, or bn(conv(x)) with a 1×1 where shapes differ
    /// ```
    ///
    /// With [`Shortcut::None`](crate::config::Shortcut::None), nothing is added.
    ///
    /// In forms (a) and (b), `conv1` and `conv2` are split into C paths, which are summed after their own
    /// `conv3` (a) or concatenated before the common one (b). With [`Attention`](crate::variants::Attention),
    /// the channels of `y` are multiplied by their factors before the shortcut is added.
    ///
    /// # Errors
    /// If `x` is not (N, input, H, W), or not of the weights' type, or the block does not compute in integers and
    /// the mode does.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        // Training computes the same with fewer passes over memory, where the fused operation supports `x`.
        if let (Mode::Train, Some(fused)) = (mode, &self.fused)
            && fused.supports(x)
        {
            return Ok(fused.forward_train(x)?);
        }
        if !matches!(mode, Mode::Train | Mode::Eval) && !self.is_exact() {
            let message = "attention, averages and blurs do not compute in integers modulo a prime".into();
            return Err(Error::Config(message));
        }
        let shortcut = self.shortcut.forward(x, mode)?;
        let y = self.transform.forward(x, mode)?;
        match (&self.attention, shortcut) {
            (None, Some(shortcut)) => self.last_norm.forward_add_relu(&y, &shortcut, mode),
            (_, None) => self.last_norm.forward_relu(&y, mode),
            (Some(attention), Some(shortcut)) => {
                let y = attention.forward(&self.last_norm.forward(&y, mode)?)?;
                Ok(add_relu(&y, &shortcut)?)
            }
        }
    }

    /// Whether the block consists of convolutions alone, beside batch norm and ReLU, so that it can compute in integers.
    fn is_exact(&self) -> bool {
        self.attention.is_none() && self.anti_alias.is_none() && !self.shortcut.is_pooled()
    }

    /// [`forward`](Self::forward) with the branch of each image multiplied by its factor, of `factors` (N):
    /// stochastic depth.
    ///
    /// # Errors
    /// The errors of [`forward`](Self::forward), and if `factors` are not (N), or the block has no shortcut that
    /// would be left when its branch is dropped.
    pub(crate) fn forward_dropping(&self, x: &Tensor, mode: Mode, factors: &Tensor) -> Result<Tensor> {
        let absent = || Error::Config("stochastic depth needs blocks with shortcuts".into());
        let shortcut = self.shortcut.forward(x, mode)?.ok_or_else(absent)?;
        let mut y = self.last_norm.forward(&self.transform.forward(x, mode)?, mode)?;
        if let Some(attention) = &self.attention {
            y = attention.forward(&y)?;
        }
        Ok(add_relu(&scale_images(&y, factors)?, &shortcut)?)
    }

    /// Builds a block of `config`'s form from the weights under `vb`, for example `layer1.0`.
    ///
    /// # Errors
    /// If a weight is missing or of the wrong shape, or blocks of this kind do not have the form.
    pub fn new(size: &BlockSize, config: &Config, vb: VarBuilder) -> Result<Self> {
        config.check_form(config.form)?;
        let transform: Box<dyn Transform> = match config.form {
            Form::A => Box::new(paths::Paths::new(size, vb.clone())?),
            Form::B => Box::new(concatenated::Concatenated::new(size, vb.clone())?),
            Form::C => Box::new(grouped::Grouped::new(size, vb.clone())?),
        };
        let last = match size.kind {
            BlockKind::Bottleneck => "bn3",
            BlockKind::Basic => "bn2",
        };
        let last_scale = if config.zero_init_last { 0.0 } else { 1.0 };
        let last_norm = BatchNorm::new(size.output, last_scale, vb.pp(last))?;
        let attention = ChannelAttention::new(config.attention, size.output, vb.pp("se"))?;
        let anti_alias = size.anti_alias_layer().map(|_| size.anti_alias);
        let shortcut = ShortcutPath::new(size, config.shortcut, vb.pp("downsample"))?;
        let fused = if attention.is_none() { fused(&*transform, &last_norm, &shortcut) } else { None };
        Ok(Block { transform, last_norm, attention, anti_alias, shortcut, fused })
    }

    /// The block as inference computes it.
    pub(crate) fn fold(&self) -> Result<FoldedBlock> {
        Ok(FoldedBlock {
            convs: self.transform.fold(&self.last_norm)?,
            anti_alias: self.anti_alias,
            attention: self.attention.as_ref().map(ChannelAttention::fold).transpose()?,
            projection: self.shortcut.fold()?,
            projection_layer: self.shortcut.layer(),
            pooled_shortcut: self.shortcut.is_pooled(),
        })
    }

    /// Whether anything is added to the branch: the input, or what the shortcut's convolution makes of it.
    pub(crate) fn is_residual(&self) -> bool {
        !matches!(self.shortcut, ShortcutPath::Absent)
    }

    /// Whether training drops the convolutions' outputs after the forward pass and computes them again in the
    /// backward pass, which takes less memory and more time. Only bottleneck blocks in form (c) do.
    pub(crate) fn set_recompute(&mut self, recompute: bool) {
        if let Some(fused) = &mut self.fused {
            fused.recompute = recompute;
        }
    }
}

/// A block with each batch norm folded into the convolution before it.
pub(crate) struct FoldedBlock {
    /// The convolutions in form (c), first to last.
    pub(crate) convs: Vec<FoldedConv>,
    /// The pool after the 3×3 convolution that would have the stride.
    pub(crate) anti_alias: Option<AntiAlias>,
    /// The attention that multiplies the channels before the shortcut is added.
    pub(crate) attention: Option<FoldedAttention>,
    /// The shortcut's convolution, if it has one.
    pub(crate) projection: Option<FoldedConv>,
    /// The name of that convolution.
    pub(crate) projection_layer: &'static str,
    /// Whether an average over 2×2 pixels comes before that convolution.
    pub(crate) pooled_shortcut: bool,
}

/// The block as one training operation. There is such an operation for three convolutions whose shortcut is
/// the input or a projection; other blocks have none.
fn fused(transform: &dyn Transform, last_norm: &BatchNorm, shortcut: &ShortcutPath) -> Option<Bottleneck> {
    let projection = match shortcut {
        ShortcutPath::Same => None,
        ShortcutPath::Projection(conv, bn) | ShortcutPath::Pooled { shrinks: false, conv, bn } => {
            Some(conv.with_norm(bn))
        }
        ShortcutPath::Pooled { .. } | ShortcutPath::Padded(..) | ShortcutPath::Absent => return None,
    };
    let convs = transform.chain(last_norm)?.try_into().ok()?;
    Some(Bottleneck { convs, projection, recompute: false })
}
