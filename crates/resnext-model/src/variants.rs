//! The layers in which timm's relatives differ from the paper's networks: `resnext50d_32x4d`, `seresnext50_32x4d`,
//! `resnetaa50`, `ecaresnet50d` and others.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Display, Formatter};

/// The convolutions of ImageNet's stem, before its max-pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StemConvs {
    /// One 7×7 convolution with stride 2, as in the paper.
    #[default]
    Single,
    /// Three 3×3 convolutions, of which the first has stride 2 and the first two have half the stem's output
    /// channels: ResNet-C and ResNet-D of He et al., "Bag of Tricks", arXiv 1812.01187, section 4.
    Deep,
    /// Like [`Deep`](Self::Deep), but the first convolution has three quarters of the second's channels: timm's `t`.
    Tiered,
}

impl StemConvs {
    /// The output channels of the first two of three convolutions, if the stem has `channels`. `None` for a
    /// single one.
    pub(crate) fn hidden(self, channels: usize) -> Option<[usize; 2]> {
        let half = channels / 2;
        match self {
            StemConvs::Single => None,
            StemConvs::Deep => Some([half, half]),
            StemConvs::Tiered => Some([3 * (half / 4), half]),
        }
    }
}

/// The factors by which a block multiplies each channel of its branch, before the shortcut is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// Nothing.
    #[default]
    None,
    /// Squeeze and excitation (Hu et al., arXiv 1709.01507, section 3): a network of two layers, from the means
    /// of all channels to a factor for each.
    SqueezeExcite {
        /// The number of channels per unit of the hidden layer, r in the paper: 16 in timm's networks.
        reduction: usize,
    },
    /// Efficient channel attention (Wang et al., arXiv 1910.03151, section 3): a convolution along the means of
    /// the channels.
    Eca,
}

/// Pooling in the place of strides, so that a shift of the image by one pixel changes the output less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AntiAlias {
    /// Nothing: 3×3 convolutions and the stem's max-pool have strides.
    #[default]
    None,
    /// An average over 2×2 pixels after the 3×3 convolution, and in place of the stem's max-pool: timm's
    /// `resnetaa50`.
    Average,
    /// A blur over 3×3 pixels after the 3×3 convolution and the stem's max-pool (Zhang, arXiv 1904.11486):
    /// timm's `resnetblur50`.
    Blur,
}

impl Display for StemConvs {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(match self {
            StemConvs::Single => "a stem of one convolution",
            StemConvs::Deep => "a deep stem",
            StemConvs::Tiered => "a tiered stem",
        })
    }
}

impl Display for Attention {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Attention::None => f.write_str("no attention"),
            Attention::SqueezeExcite { reduction } => write!(f, "squeeze and excitation by {reduction}"),
            Attention::Eca => f.write_str("efficient channel attention"),
        }
    }
}

impl Display for AntiAlias {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(match self {
            AntiAlias::None => "none",
            AntiAlias::Average => "averages",
            AntiAlias::Blur => "blurs",
        })
    }
}

/// Whether a setting has its default, and need not be written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
