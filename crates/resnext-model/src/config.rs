//! The configuration of a network, and the layer sizes that follow from it.

use crate::error::{Error, Result};
use crate::variants::{AntiAlias, Attention, StemConvs, is_default};
use serde::{Deserialize, Serialize};

/// A ResNeXt (section 3.1 and table 1 of the paper), or one of the ResNets it generalises.
///
/// Two rules give every width: blocks of one stage share their sizes, and each later stage halves the feature
/// map and doubles the width. A ResNet is a ResNeXt of cardinality 1 and base width 64.
///
/// [`Config::by_name`] gives the published networks. In its serialised form a configuration is a table of
/// these fields; those with a default may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Cardinality C: the number of paths per block (section 3.3).
    pub cardinality: usize,
    /// Base width d: the number of channels per path in the first stage (table 2).
    pub base_width: usize,
    /// Channels per path in each stage, of which the first is [`base_width`](Self::base_width), where they do
    /// not double from stage to stage; usually empty, for base_width·2^s.
    /// [`equal_complexity`](crate::equal_complexity()) makes use of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub widths: Vec<usize>,
    /// The number of blocks in each stage.
    pub depths: Vec<usize>,
    /// The width of the first stage, 64 by default. A block of stage s, counted from 0, has planes·2^s output
    /// channels, times the [expansion](BlockKind::expansion) of its kind. The stem has as many, unless
    /// [`stem_channels`](Self::stem_channels) says otherwise.
    #[serde(default = "default_planes")]
    pub planes: usize,
    /// Which convolutions a block consists of.
    #[serde(default)]
    pub block: BlockKind,
    /// The layers before the first stage.
    pub stem: StemKind,
    /// The convolutions of ImageNet's stem.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stem_convs: StemConvs,
    /// Output channels of the stem, if they are not [`planes`](Self::planes).
    #[serde(default, skip_serializing_if = "is_default")]
    pub stem_channels: Option<usize>,
    /// How a block's input reaches its output where their shapes differ.
    #[serde(default)]
    pub shortcut: Shortcut,
    /// The attention with which blocks multiply the channels of their branch.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attention: Attention,
    /// The pooling that takes the place of strides. It has no weights, so weights do not show it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub anti_alias: AntiAlias,
    /// The number of classes, which is the number of logits.
    pub classes: usize,
    /// Which of the three equivalent forms of figure 3 the blocks take.
    #[serde(default)]
    pub form: Form,
    /// Whether the last batch norm of each block starts with scale 0, so that blocks start as identities.
    #[serde(default)]
    pub zero_init_last: bool,
}

fn default_planes() -> usize {
    64
}

/// Which convolutions a residual block consists of (He et al., "Deep Residual Learning", arXiv 1512.03385,
/// figure 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockKind {
    /// 1×1, 3×3 and 1×1 convolutions: every ResNeXt, and ResNets of 50 and more layers.
    #[default]
    Bottleneck,
    /// Two 3×3 convolutions: ResNet-18 and 34. Paths of two layers add up to one wider dense block (section
    /// 3.3 and figure 4 of the ResNeXt paper), so basic blocks have cardinality 1 and form (c) only.
    Basic,
}

impl BlockKind {
    /// A block's output channels per plane of its stage: 4 for bottleneck blocks, 1 for basic ones.
    pub fn expansion(self) -> usize {
        match self {
            BlockKind::Bottleneck => 4,
            BlockKind::Basic => 1,
        }
    }

    /// Checks that blocks of this kind have the form.
    ///
    /// # Errors
    /// [`Error::Config`] for basic blocks in form (a) or (b).
    pub(crate) fn check_form(self, form: Form) -> Result<()> {
        match (self, form) {
            (BlockKind::Basic, Form::A | Form::B) => {
                Err(Error::Config(format!("basic blocks have form c only, got {form}")))
            }
            _ => Ok(()),
        }
    }
}

/// The layers before the first stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StemKind {
    /// A 7×7 convolution with stride 2, or three 3×3 ones, then a 3×3 max-pool with stride 2 (table 1).
    ImageNet,
    /// A 3×3 convolution (section 5.3).
    Cifar,
}

/// The shortcut of a block whose output has another shape than its input (He et al., "Deep Residual
/// Learning", section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shortcut {
    /// Option B: a 1×1 convolution with batch norm, as in torchvision.
    #[default]
    Projection,
    /// Option A: every other pixel, padded with zero channels; it has no parameters.
    Identity,
    /// A 2×2 average with stride 2, where the map shrinks, and then a 1×1 convolution with batch norm, so that
    /// no pixel is passed over: ResNet-D of He et al., "Bag of Tricks", arXiv 1812.01187, section 4.
    Pooled,
    /// No block has a shortcut, whatever its shapes: its output is relu(bn(Σ T_i(x))). Section 5.1 of the
    /// ResNeXt paper trains such networks to measure what residual connections are worth.
    None,
}

/// The three equivalent forms of a block (figure 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Figure 3 (a): C separate paths, summed.
    A,
    /// Figure 3 (b): C paths, concatenated after the 3×3 convolution.
    B,
    /// Figure 3 (c): one grouped 3×3 convolution. This is torchvision's form, and the fast one.
    #[default]
    C,
}

impl std::str::FromStr for Form {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "a" => Ok(Form::A),
            "b" => Ok(Form::B),
            "c" => Ok(Form::C),
            other => Err(Error::Form(other.to_string())),
        }
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Form::A => "a",
            Form::B => "b",
            Form::C => "c",
        })
    }
}

/// The sizes of one block, as they follow from a [`Config`]: see [`Config::blocks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct BlockSize {
    /// Which convolutions the block consists of.
    pub kind: BlockKind,
    /// The number of input channels.
    pub input: usize,
    /// The number of channels per path.
    pub path: usize,
    /// The number of paths.
    pub cardinality: usize,
    /// The number of output channels.
    pub output: usize,
    /// The stride of the first 3×3 convolution, or of the pool that takes its place.
    pub stride: usize,
    /// The pooling that takes the place of the stride, if there is one.
    #[serde(skip_serializing_if = "is_default")]
    pub anti_alias: AntiAlias,
}

impl BlockSize {
    /// The number of channels of all paths together: that of the grouped convolution in form (c).
    pub fn inner(&self) -> usize {
        self.path * self.cardinality
    }

    /// The block's convolutions in form (c), first to last.
    pub(crate) fn convs(&self) -> Vec<ConvSize> {
        let &BlockSize { input, output, .. } = self;
        let stride = if self.anti_alias_layer().is_some() { 1 } else { self.stride };
        let inner = self.inner();
        match self.kind {
            BlockKind::Bottleneck => vec![
                ConvSize::dense(input, inner, 1),
                ConvSize { stride, groups: self.cardinality, ..ConvSize::dense(inner, inner, 3) },
                ConvSize::dense(inner, output, 1),
            ],
            BlockKind::Basic => vec![
                ConvSize { stride, ..ConvSize::dense(input, inner, 3) },
                ConvSize::dense(inner, output, 3),
            ],
        }
    }

    /// The number, counted from 0, of the convolution after whose ReLU a pool takes the place of the stride.
    pub(crate) fn anti_alias_layer(&self) -> Option<usize> {
        let strided = match self.kind {
            BlockKind::Bottleneck => 1,
            BlockKind::Basic => 0,
        };
        (self.stride > 1 && self.anti_alias != AntiAlias::None).then_some(strided)
    }

    /// The 1×1 convolution of the shortcut, if the shape changes.
    pub(crate) fn projection(&self, shortcut: Shortcut) -> ConvSize {
        let stride = if shortcut == Shortcut::Pooled { 1 } else { self.stride };
        ConvSize { stride, ..ConvSize::dense(self.input, self.output, 1) }
    }

    /// The weight of [`projection`](Self::projection), (output, input, 1, 1), with which that convolution is
    /// [`Shortcut::Identity`]: it copies the input's channels and pads them with zeros.
    pub(crate) fn identity_weight(&self) -> Vec<f32> {
        let copies = |i: usize| if i / self.input == i % self.input { 1.0 } else { 0.0 };
        (0..self.output * self.input).map(copies).collect()
    }

    /// Whether the output has another shape than the input.
    pub fn changes_shape(&self) -> bool {
        self.stride != 1 || self.input != self.output
    }
}

impl std::fmt::Display for BlockSize {
    /// For example `32×4d, 64→256`, or `32×8d, 256→512, /2` with stride 2; basic blocks start with `basic, `.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.kind == BlockKind::Basic {
            write!(f, "basic, ")?;
        }
        write!(f, "{}×{}d, {}→{}", self.cardinality, self.path, self.input, self.output)?;
        if self.stride == 1 { Ok(()) } else { write!(f, ", /{}", self.stride) }
    }
}

/// The sizes of a square convolution, padded so that stride 1 keeps the size of the map.
#[derive(Clone, Copy)]
pub(crate) struct ConvSize {
    /// Input channels.
    pub(crate) input: usize,
    /// Output channels.
    pub(crate) output: usize,
    /// Height and width of the kernel.
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) groups: usize,
    /// Output channels of the convolution in form (c) that this one is a part of. Initialisation uses it, so
    /// that paths start with the same distribution as the grouped convolution they add up to.
    pub(crate) joined_output: usize,
}

impl ConvSize {
    /// A convolution with stride 1 and one group.
    pub(crate) fn dense(input: usize, output: usize, kernel: usize) -> Self {
        ConvSize { input, output, kernel, stride: 1, groups: 1, joined_output: output }
    }
}

/// A convolution of the stem, with the batch norm after it.
pub(crate) struct StemLayer {
    /// The convolution's name.
    pub(crate) conv: &'static str,
    /// The batch norm's name.
    pub(crate) norm: &'static str,
    pub(crate) size: ConvSize,
}

impl Config {
    /// Checks that a network of this configuration can exist.
    ///
    /// # Errors
    /// [`Error::Config`], which names the value and its range.
    pub fn validate(&self) -> Result<()> {
        let within = |name: &str, value: usize, most: usize| match (1..=most).contains(&value) {
            true => Ok(()),
            false => Err(Error::Config(format!("{name} must be from 1 to {most}, got {value}"))),
        };
        self.check_form(self.form)?;
        self.check_variants()?;
        let most = if self.block == BlockKind::Basic { 1 } else { 4096 };
        within("cardinality", self.cardinality, most)?;
        within("base_width", self.base_width, 4096)?;
        within("cardinality × base_width", self.cardinality * self.base_width, 1 << 16)?;
        if let Some(&first) = self.widths.first() {
            if (self.widths.len(), first) != (self.depths.len(), self.base_width) {
                return Err(Error::Config(format!(
                    "widths must be one per stage, starting with base_width {}, got {:?} for {} stages",
                    self.base_width,
                    self.widths,
                    self.depths.len()
                )));
            }
            self.widths
                .iter()
                .try_for_each(|&width| within("a stage's width", width, (1 << 16) / self.cardinality))?;
        }
        within("planes", self.planes, 4096)?;
        within("classes", self.classes, 1 << 20)?;
        within("the number of stages", self.depths.len(), 6)?;
        self.depths.iter().try_for_each(|&depth| within("the number of blocks in a stage", depth, 1000))
    }

    /// Checks that networks of this configuration have the form.
    ///
    /// # Errors
    /// [`Error::Config`] for basic blocks, and those with anti-aliasing, in form (a) or (b).
    pub(crate) fn check_form(&self, form: Form) -> Result<()> {
        self.block.check_form(form)?;
        match (self.anti_alias, form) {
            (AntiAlias::None, _) | (_, Form::C) => Ok(()),
            _ => Err(Error::Config(format!("anti-aliased blocks have form c only, got {form}"))),
        }
    }

    /// Checks that networks of this configuration can compute in int8, whose maps have one scale for all channels.
    ///
    /// # Errors
    /// [`Error::Config`] for attention, anti-aliasing, averaged shortcuts and stems of three convolutions.
    pub fn check_int8(&self) -> Result<()> {
        let what = match self {
            _ if self.attention != Attention::None => "attention",
            _ if self.anti_alias != AntiAlias::None => "anti-aliasing",
            _ if self.shortcut == Shortcut::Pooled => "averaged shortcuts",
            _ if self.stem_convs != StemConvs::Single => "a stem of three convolutions",
            _ => return Ok(()),
        };
        Err(Error::Config(format!("a network with {what} computes in f32 or bf16, not in int8")))
    }

    /// Checks what timm's relatives have beyond the paper's networks.
    fn check_variants(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Config(what));
        let channels = self.stem_output();
        if !(1..=4096).contains(&channels) {
            return wrong(format!("stem_channels must be from 1 to 4096, got {channels}"));
        }
        if self.stem != StemKind::ImageNet && self.stem_convs != StemConvs::Single {
            return wrong("a stem of three convolutions is ImageNet's, the stem is CIFAR's".into());
        }
        if self.stem_convs.hidden(channels).is_some_and(|hidden| hidden.contains(&0)) {
            return wrong(format!("a stem of three convolutions needs more channels, got {channels}"));
        }
        if self.shortcut == Shortcut::None && self.attention != Attention::None {
            return wrong("blocks without shortcuts have no attention".into());
        }
        match self.attention {
            Attention::SqueezeExcite { reduction } if !(1..=4096).contains(&reduction) => {
                wrong(format!("reduction must be from 1 to 4096, got {reduction}"))
            }
            _ => Ok(()),
        }
    }

    /// Output channels of the stem.
    pub(crate) fn stem_output(&self) -> usize {
        self.stem_channels.unwrap_or(self.planes)
    }

    /// The convolutions of the stem, first to last.
    pub(crate) fn stem_layers(&self) -> Vec<StemLayer> {
        let layer = |conv, norm, size| StemLayer { conv, norm, size };
        let output = self.stem_output();
        match (self.stem, self.stem_convs.hidden(output)) {
            (StemKind::Cifar, _) => vec![layer("conv1", "bn1", ConvSize::dense(3, output, 3))],
            (StemKind::ImageNet, None) => {
                vec![layer("conv1", "bn1", ConvSize { stride: 2, ..ConvSize::dense(3, output, 7) })]
            }
            (StemKind::ImageNet, Some([first, second])) => vec![
                layer("conv1.0", "conv1.1", ConvSize { stride: 2, ..ConvSize::dense(3, first, 3) }),
                layer("conv1.3", "conv1.4", ConvSize::dense(first, second, 3)),
                layer("conv1.6", "bn1", ConvSize::dense(second, output, 3)),
            ],
        }
    }

    /// The sizes of all blocks, stage by stage.
    pub fn blocks(&self) -> Vec<Vec<BlockSize>> {
        let mut input = self.stem_output();
        let stage = |(s, &depth): (usize, &usize)| {
            let blocks = (0..depth).map(|i| {
                let output = self.stage_channels(s);
                let stride = if s > 0 && i == 0 { 2 } else { 1 };
                let size = BlockSize {
                    kind: self.block,
                    input,
                    path: self.width(s),
                    cardinality: self.cardinality,
                    output,
                    stride,
                    anti_alias: if stride > 1 { self.anti_alias } else { AntiAlias::None },
                };
                input = output;
                size
            });
            blocks.collect()
        };
        self.depths.iter().enumerate().map(stage).collect()
    }

    /// The stride of each stage's map relative to the image: 4, 8, 16 and 32 for an ImageNet network.
    pub fn strides(&self) -> Vec<usize> {
        let first = if self.stem == StemKind::ImageNet { 4 } else { 1 };
        (0..self.depths.len()).map(|s| first << s).collect()
    }

    /// The channels of each stage's map: 256, 512, 1024 and 2048 for ResNeXt-50.
    pub fn channels(&self) -> Vec<usize> {
        (0..self.depths.len()).map(|s| self.stage_channels(s)).collect()
    }

    /// Channels per path in stage `s`, counted from 0.
    fn width(&self, s: usize) -> usize {
        self.widths.get(s).copied().unwrap_or(self.base_width << s)
    }

    /// The channels of stage `s`, counted from 0.
    fn stage_channels(&self, s: usize) -> usize {
        (self.planes * self.block.expansion()) << s
    }

    /// The number of features: the channels of the last stage, which the head averages over all pixels.
    ///
    /// # Panics
    /// If there are no stages, which [`validate`](Self::validate) reports.
    pub fn features(&self) -> usize {
        self.stage_channels(self.depths.len() - 1)
    }
}
