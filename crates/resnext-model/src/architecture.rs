//! The network that weights are of, or that a name stands for: one of ours, or a baseline.

use crate::baselines::Baseline;
use crate::config::{Config, Form, StemKind};
use crate::error::{Error, Result};
use crate::preprocessing::Preprocessing;
use crate::summary::Summary;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A network without its weights: a ResNet or ResNeXt, or one of the baselines.
///
/// Serialised, a ResNet or ResNeXt is its [`Config`], and a baseline an object such as
/// `{"architecture": "inception_v4", "classes": 1000}`.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// A ResNet or ResNeXt.
    ResNext(Config),
    /// An Inception or VGG.
    Baseline {
        /// Which one.
        baseline: Baseline,
        /// The number of classes.
        classes: usize,
    },
}

/// A baseline in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    architecture: String,
    classes: usize,
}

impl Architecture {
    /// The network of this name, with blocks in form (c) where there are forms: a baseline, or what
    /// [`Config::by_name`] takes.
    ///
    /// # Errors
    /// The errors of [`Config::by_name`].
    pub fn by_name(name: &str) -> Result<Self> {
        match Baseline::by_name(name) {
            Some(baseline) => Ok(Architecture::Baseline { baseline, classes: Baseline::CLASSES }),
            None => Ok(Architecture::ResNext(Config { form: Form::C, ..Config::by_name(name)? })),
        }
    }

    /// The configuration of a ResNet or ResNeXt.
    ///
    /// # Errors
    /// [`Error::Config`] if it is a baseline.
    pub fn config(&self) -> Result<&Config> {
        match self {
            Architecture::ResNext(config) => Ok(config),
            Architecture::Baseline { baseline, .. } => {
                Err(Error::Config(format!("expected a ResNet or ResNeXt, got {}", baseline.name())))
            }
        }
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        match self {
            Architecture::ResNext(config) => config.classes,
            Architecture::Baseline { classes, .. } => *classes,
        }
    }

    /// The same network for `classes` classes.
    pub fn with_classes(self, classes: usize) -> Self {
        match self {
            Architecture::ResNext(config) => Architecture::ResNext(Config { classes, ..config }),
            Architecture::Baseline { baseline, .. } => Architecture::Baseline { baseline, classes },
        }
    }

    /// Height and width in pixels of the images that it was designed for: 224, 299 for Inceptions, and 32 for CIFAR
    /// networks.
    pub fn size(&self) -> usize {
        match self {
            Architecture::ResNext(config) if config.stem == StemKind::Cifar => 32,
            Architecture::ResNext(_) => 224,
            Architecture::Baseline { baseline, .. } => baseline.size(),
        }
    }

    /// The number of stages; 0 of an Inception or VGG, which has none.
    pub fn stages(&self) -> usize {
        match self {
            Architecture::ResNext(config) => config.depths.len(),
            Architecture::Baseline { .. } => 0,
        }
    }

    /// The name of the last layer, before `.weight` and `.bias`.
    pub fn head(&self) -> &'static str {
        match self {
            Architecture::ResNext(_) => "fc",
            Architecture::Baseline { baseline, .. } => baseline.head().0,
        }
    }

    /// The pixels of the smallest feature map that a convolution gives, of an image of `h`×`w` pixels; 0 if that image is
    /// too small for the network.
    pub fn smallest_map(&self, h: usize, w: usize) -> usize {
        match self {
            Architecture::ResNext(config) => {
                let stride = config.strides().last().copied().unwrap_or(1);
                h.div_ceil(stride) * w.div_ceil(stride)
            }
            Architecture::Baseline { baseline, classes } => {
                let layers = baseline.summary(*classes, h, w).layers;
                let maps = layers.iter().filter(|layer| layer.kind != "linear");
                maps.map(|layer| layer.output.1 * layer.output.2).min().unwrap_or(0)
            }
        }
    }

    /// How images are prepared where nothing else says it.
    pub fn preprocessing(&self) -> Preprocessing {
        match self {
            Architecture::ResNext(config) => Preprocessing::usual(config.stem),
            Architecture::Baseline { baseline, .. } => baseline.preprocessing(),
        }
    }

    /// The layers for one image of `h`×`w` pixels.
    ///
    /// # Errors
    /// The errors of [`Summary::new`].
    pub fn summary(&self, h: usize, w: usize) -> Result<Summary> {
        match self {
            Architecture::ResNext(config) => Summary::new(config, h, w),
            Architecture::Baseline { baseline, classes } => Ok(baseline.summary(*classes, h, w)),
        }
    }
}

impl From<Config> for Architecture {
    fn from(config: Config) -> Self {
        Architecture::ResNext(config)
    }
}

impl From<&Config> for Architecture {
    fn from(config: &Config) -> Self {
        Architecture::ResNext(config.clone())
    }
}

impl From<&Architecture> for Architecture {
    fn from(architecture: &Architecture) -> Self {
        architecture.clone()
    }
}

impl Serialize for Architecture {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Architecture::ResNext(config) => config.serialize(to),
            Architecture::Baseline { baseline, classes } => {
                Named { architecture: baseline.name().into(), classes: *classes }.serialize(to)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Architecture {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        if value.get("architecture").is_none() {
            return serde_json::from_value(value).map(Architecture::ResNext).map_err(D::Error::custom);
        }
        let Named { architecture, classes } = serde_json::from_value(value).map_err(D::Error::custom)?;
        let unknown = || D::Error::custom(format!("unknown architecture {}", architecture.escape_debug()));
        let baseline = Baseline::by_name(&architecture).ok_or_else(unknown)?;
        Ok(Architecture::Baseline { baseline, classes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_map_decides_whether_images_are_too_small() {
        let smallest = |name: &str, h, w| Architecture::by_name(name).unwrap().smallest_map(h, w);
        assert_eq!(smallest("resnext50_32x4d", 224, 33), 7 * 2);
        assert_eq!(smallest("resnext20_8x4d", 32, 32), 8 * 8);
        // Four of its pools come before the last convolutions.
        assert_eq!((smallest("vgg16_bn", 224, 64), smallest("vgg19_bn", 32, 32)), (14 * 4, 2 * 2));
        assert_eq!((smallest("inception_v3", 299, 299), smallest("inception_v3", 75, 75)), (8 * 8, 1));
        assert_eq!((smallest("inception_v4", 74, 74), smallest("vgg16_bn", 8, 8)), (0, 0));
    }

    #[test]
    fn a_network_comes_back_from_json() {
        for name in ["seresnextaa101d_32x8d", "resnext20_8x4d", "inception_resnet_v2", "vgg16_bn"] {
            let network = Architecture::by_name(name).unwrap().with_classes(7);
            let json = serde_json::to_string(&network).unwrap();
            assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), network, "{json}");
        }
        let error = serde_json::from_str::<Architecture>(r#"{"architecture": "x\u001b", "classes": 7}"#);
        assert!(error.unwrap_err().to_string().contains(r"unknown architecture x\u{1b}"));
    }
}
