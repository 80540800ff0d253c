//! What a network looks like.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A ResNeXt (the paper's section 3.1 and table 1), or one of the ResNets it grew out of.
///
/// Two rules give every width: blocks of one stage share it, and each later stage halves the map and
/// doubles the width. ResNet is the case of cardinality 1 and base width 64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Paths a block, C.
    pub cardinality: usize,
    /// Channels a path in the first stage, d.
    pub base_width: usize,
    /// Blocks a stage.
    pub depths: Vec<usize>,
    /// Channels of the stem. A block of stage s (from 0) puts out planes·2^s channels, times the
    /// [expansion](BlockKind::expansion) of its kind.
    #[serde(default = "default_planes")]
    pub planes: usize,
    /// What blocks are made of.
    #[serde(default)]
    pub block: BlockKind,
    /// What comes before the first stage.
    pub stem: Stem,
    /// How a block's input reaches its output where their shapes differ.
    #[serde(default)]
    pub shortcut: Shortcut,
    /// Logits put out.
    pub classes: usize,
    /// Which of the three equivalent forms blocks take.
    #[serde(default)]
    pub form: Form,
    /// Whether the last batch norm of each block starts at scale 0, so that blocks start as identities.
    #[serde(default)]
    pub zero_init_last: bool,
}

fn default_planes() -> usize {
    64
}

/// What a residual block is made of (He et al., "Deep Residual Learning", arXiv 1512.03385, figure 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockKind {
    /// 1×1, 3×3 and 1×1 convolutions: every ResNeXt, and ResNet from 50 layers on.
    #[default]
    Bottleneck,
    /// Two 3×3 convolutions: ResNet-18 and 34. The paper's section 3.3 says why there is no ResNeXt of them: their
    /// paths together are one wider, dense block. So they have one path and form (c) only.
    Basic,
}

impl BlockKind {
    /// Channels a block puts out for each of its stage's planes.
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

/// What comes before the first stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7×7 convolution of stride 2, then 3×3 max-pool of stride 2 (table 1).
    ImageNet,
    /// 3×3 convolution (section 5.3).
    Cifar,
}

/// The shortcut where a block changes the shape (He et al., "Deep Residual Learning", section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shortcut {
    /// Option B: a 1×1 convolution with batch norm, as in torchvision.
    #[default]
    Projection,
    /// Option A: every other pixel, and zeros for the new channels; no parameters.
    Identity,
}

/// The three equivalent forms of a block (figure 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// C separate paths, summed.
    A,
    /// C paths, concatenated after the 3×3 convolution.
    B,
    /// One grouped 3×3 convolution.
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

/// The sizes of one block, as [`Config`] implies them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct BlockSize {
    /// What it is made of.
    pub kind: BlockKind,
    /// Channels in.
    pub input: usize,
    /// Channels of one path.
    pub path: usize,
    /// Paths.
    pub cardinality: usize,
    /// Channels out.
    pub output: usize,
    /// Of the first 3×3 convolution.
    pub stride: usize,
}

impl BlockSize {
    /// Channels of all paths together.
    pub fn inner(&self) -> usize {
        self.path * self.cardinality
    }

    /// Its convolutions in form (c), first to last.
    pub(crate) fn convs(&self) -> Vec<ConvSize> {
        let &BlockSize { input, output, stride, .. } = self;
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

    /// The shortcut's convolution, where it has one.
    pub(crate) fn projection(&self) -> ConvSize {
        ConvSize { stride: self.stride, ..ConvSize::dense(self.input, self.output, 1) }
    }

    /// Whether the input differs in shape from the output.
    pub fn changes_shape(&self) -> bool {
        self.stride != 1 || self.input != self.output
    }
}

impl std::fmt::Display for BlockSize {
    /// As in `32×4d, 64→256` and `32×8d, 256→512, /2`; basic blocks say so first.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.kind == BlockKind::Basic {
            write!(f, "basic, ")?;
        }
        write!(f, "{}×{}d, {}→{}", self.cardinality, self.path, self.input, self.output)?;
        if self.stride == 1 { Ok(()) } else { write!(f, ", /{}", self.stride) }
    }
}

/// The sizes of a square convolution, padded so that stride 1 keeps the map's size.
#[derive(Clone, Copy)]
pub(crate) struct ConvSize {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) groups: usize,
    /// Output channels of the joined convolution this is a part of: paths start with the same
    /// distribution as the grouped convolution that equals them.
    pub(crate) joined_output: usize,
}

impl ConvSize {
    pub(crate) fn dense(input: usize, output: usize, kernel: usize) -> Self {
        ConvSize { input, output, kernel, stride: 1, groups: 1, joined_output: output }
    }
}

impl Config {
    /// Checks that a network of this configuration can exist.
    ///
    /// # Errors
    /// [`Error::Config`] that names the value and its range.
    pub fn validate(&self) -> Result<()> {
        let within = |name: &str, value: usize, most: usize| match (1..=most).contains(&value) {
            true => Ok(()),
            false => Err(Error::Config(format!("{name} must be from 1 to {most}, got {value}"))),
        };
        self.block.check_form(self.form)?;
        let most = if self.block == BlockKind::Basic { 1 } else { 4096 };
        within("cardinality", self.cardinality, most)?;
        within("base_width", self.base_width, 4096)?;
        within("cardinality × base_width", self.cardinality * self.base_width, 1 << 16)?;
        within("planes", self.planes, 4096)?;
        within("classes", self.classes, 1 << 20)?;
        within("the number of stages", self.depths.len(), 6)?;
        self.depths.iter().try_for_each(|&depth| within("blocks a stage", depth, 1000))
    }

    /// The first convolution.
    pub(crate) fn entrance(&self) -> ConvSize {
        match self.stem {
            Stem::ImageNet => ConvSize { stride: 2, ..ConvSize::dense(3, self.planes, 7) },
            Stem::Cifar => ConvSize::dense(3, self.planes, 3),
        }
    }

    /// The blocks, stage by stage.
    pub fn blocks(&self) -> Vec<Vec<BlockSize>> {
        let mut input = self.planes;
        let stage = |(s, &depth): (usize, &usize)| {
            let blocks = (0..depth).map(|i| {
                let output = self.stage_channels(s);
                let stride = if s > 0 && i == 0 { 2 } else { 1 };
                let size = BlockSize {
                    kind: self.block,
                    input,
                    path: self.base_width << s,
                    cardinality: self.cardinality,
                    output,
                    stride,
                };
                input = output;
                size
            });
            blocks.collect()
        };
        self.depths.iter().enumerate().map(stage).collect()
    }

    /// Pixels of the image that a pixel of each stage's map stands for, along a side: 4, 8, 16, 32 for an
    /// ImageNet network.
    pub fn strides(&self) -> Vec<usize> {
        let first = if self.stem == Stem::ImageNet { 4 } else { 1 };
        (0..self.depths.len()).map(|s| first << s).collect()
    }

    /// Channels of each stage's map: 256, 512, 1024, 2048 for an ImageNet network.
    pub fn channels(&self) -> Vec<usize> {
        (0..self.depths.len()).map(|s| self.stage_channels(s)).collect()
    }

    /// Channels of the map of stage `s`, from 0.
    fn stage_channels(&self, s: usize) -> usize {
        (self.planes * self.block.expansion()) << s
    }

    /// Channels the head pools.
    ///
    /// # Panics
    /// If there are no stages, which [`validate`](Self::validate) reports.
    pub fn features(&self) -> usize {
        self.stage_channels(self.depths.len() - 1)
    }
}
