//! The baselines by name, and what differs between them beside their layers.

use super::inception_resnet_v2::layers as inception_resnet_v2;
use super::inception_v3::layers as inception_v3;
use super::inception_v4::layers as inception_v4;
use super::node::Node;
use super::vgg::layers as vgg;
use crate::config::StemKind;
use crate::preprocessing::Preprocessing;

/// A network for ImageNet other than a ResNet or a ResNeXt, under timm's or torchvision's names of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// Inception-v3 (arXiv 1512.00567), without the auxiliary classifier.
    InceptionV3,
    /// Inception-v4 (arXiv 1602.07261).
    InceptionV4,
    /// Inception-ResNet-v2 (arXiv 1602.07261).
    InceptionResNetV2,
    /// VGG-16 with batch norm (arXiv 1409.1556), under torchvision's names.
    Vgg16,
    /// VGG-19 with batch norm (arXiv 1409.1556), under torchvision's names.
    Vgg19,
}

impl Baseline {
    /// The number of classes of all published weights: ImageNet's.
    pub const CLASSES: usize = 1000;

    /// All of them.
    pub const ALL: [Baseline; 5] = [
        Baseline::InceptionV3,
        Baseline::InceptionV4,
        Baseline::InceptionResNetV2,
        Baseline::Vgg16,
        Baseline::Vgg19,
    ];

    /// The network that timm calls so, for example `inception_v4` or `vgg16_bn`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|baseline| baseline.name() == name)
    }

    /// timm's name.
    pub fn name(self) -> &'static str {
        match self {
            Baseline::InceptionV3 => "inception_v3",
            Baseline::InceptionV4 => "inception_v4",
            Baseline::InceptionResNetV2 => "inception_resnet_v2",
            Baseline::Vgg16 => "vgg16_bn",
            Baseline::Vgg19 => "vgg19_bn",
        }
    }

    /// Height and width in pixels of the images that it was designed for.
    pub fn size(self) -> usize {
        match self {
            Baseline::InceptionV3 | Baseline::InceptionV4 | Baseline::InceptionResNetV2 => 299,
            Baseline::Vgg16 | Baseline::Vgg19 => 224,
        }
    }

    /// How images are prepared for the published weights: as torchvision and timm do it.
    pub fn preprocessing(self) -> Preprocessing {
        let usual = Preprocessing::usual(StemKind::ImageNet);
        match self {
            Baseline::Vgg16 | Baseline::Vgg19 => usual,
            _ => Preprocessing {
                size: (self.size(), self.size()),
                crop_pct: if self == Baseline::InceptionResNetV2 { 0.8975 } else { 0.875 },
                interpolation: "bicubic".into(),
                mean: [0.5; 3],
                std: [0.5; 3],
                ..usual
            },
        }
    }

    /// All layers before the last one.
    pub(crate) fn layers(self) -> Node {
        match self {
            Baseline::InceptionV3 => inception_v3(),
            Baseline::InceptionV4 => inception_v4(),
            Baseline::InceptionResNetV2 => inception_resnet_v2(),
            Baseline::Vgg16 => vgg([2, 2, 3, 3, 3]),
            Baseline::Vgg19 => vgg([2, 2, 4, 4, 4]),
        }
    }

    /// The last layer's name, and the number of features that it reads.
    pub(crate) fn head(self) -> (&'static str, usize) {
        match self {
            Baseline::InceptionV3 => ("fc", 2048),
            Baseline::InceptionV4 => ("last_linear", 1536),
            Baseline::InceptionResNetV2 => ("classif", 1536),
            Baseline::Vgg16 | Baseline::Vgg19 => ("classifier.6", 4096),
        }
    }

    /// The constant that batch norms add to the variance.
    pub(crate) fn eps(self) -> f64 {
        match self {
            Baseline::InceptionV3 | Baseline::InceptionV4 | Baseline::InceptionResNetV2 => 1e-3,
            Baseline::Vgg16 | Baseline::Vgg19 => 1e-5,
        }
    }
}
