//! What a network looks like.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// A ResNeXt of bottleneck blocks (the paper's section 3.1 and table 1).
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
    /// Channels of the stem. A block of stage s (from 0) puts out 4·planes·2^s channels.
    #[serde(default = "default_planes")]
    pub planes: usize,
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

/// Channels a block puts out for each of its stage's planes.
pub(crate) const EXPANSION: usize = 4;

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
    /// Channels in.
    pub input: usize,
    /// Channels of one path.
    pub path: usize,
    /// Paths.
    pub cardinality: usize,
    /// Channels out.
    pub output: usize,
    /// Of the 3×3 convolution.
    pub stride: usize,
}

impl BlockSize {
    /// Channels of all paths together.
    pub fn inner(&self) -> usize {
        self.path * self.cardinality
    }

    /// Whether the input differs in shape from the output.
    pub fn changes_shape(&self) -> bool {
        self.stride != 1 || self.input != self.output
    }
}

impl std::fmt::Display for BlockSize {
    /// As in `32×4d, 64→256` and `32×8d, 256→512, /2`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}×{}d, {}→{}", self.cardinality, self.path, self.input, self.output)?;
        if self.stride == 1 { Ok(()) } else { write!(f, ", /{}", self.stride) }
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
        within("cardinality", self.cardinality, 4096)?;
        within("base_width", self.base_width, 4096)?;
        within("cardinality × base_width", self.cardinality * self.base_width, 1 << 16)?;
        within("planes", self.planes, 4096)?;
        within("classes", self.classes, 1 << 20)?;
        within("the number of stages", self.depths.len(), 6)?;
        self.depths.iter().try_for_each(|&depth| within("blocks a stage", depth, 1000))
    }

    /// The blocks, stage by stage.
    pub fn blocks(&self) -> Vec<Vec<BlockSize>> {
        let mut input = self.planes;
        let stage = |(s, &depth): (usize, &usize)| {
            let blocks = (0..depth).map(|i| {
                let output = (self.planes * EXPANSION) << s;
                let stride = if s > 0 && i == 0 { 2 } else { 1 };
                let size = BlockSize {
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
        (0..self.depths.len()).map(|s| (self.planes * EXPANSION) << s).collect()
    }

    /// Channels the head pools.
    ///
    /// # Panics
    /// If there are no stages, which [`validate`](Self::validate) reports.
    pub fn features(&self) -> usize {
        (self.planes * EXPANSION) << (self.depths.len() - 1)
    }
}
