//! The networks that are compared by default, and the errors that others have published for them.

/// Top-1 and top-5 error on ImageNet's validation set, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Errors {
    pub top1: f64,
    pub top5: f64,
    /// The side in pixels of the crop, or of VGG's whole image.
    pub size: usize,
}

/// The published figures of a network.
pub struct Published {
    /// The network's name here.
    pub name: &'static str,
    /// Its name in the paper.
    pub title: &'static str,
    /// Errors that a paper reports, and which one.
    pub paper: Option<(Errors, Source)>,
    /// How the paper's network differs from the one here.
    pub remark: Option<&'static str>,
    /// Errors that timm measured for one of its weights, and their name.
    pub timm: Option<(Errors, &'static str)>,
}

/// Where a paper's figures are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Networks of twice the complexity of ResNet-101, beside it; one central crop.
    ResNextTable4,
    /// The state of the art; one central crop.
    ResNextTable5,
    /// Single networks at one scale; the whole image and its mirror image.
    VggTable3,
}

impl Source {
    /// The citation.
    pub fn citation(self) -> &'static str {
        match self {
            Source::ResNextTable4 => "Xie et al., arXiv 1611.05431, table 4",
            Source::ResNextTable5 => "Xie et al., arXiv 1611.05431, table 5",
            Source::VggTable3 => {
                "Simonyan and Zisserman, arXiv 1409.1556, table 3 (D without batch norm, whole image of shorter side 256)"
            }
        }
    }
}

/// Where timm's figures are from.
pub const TIMM: &str = "timm, results/results-imagenet.csv at commit 0173a139";

const fn errors(top1: f64, top5: f64, size: usize) -> Errors {
    Errors { top1, top5, size }
}

/// The networks of the paper's comparison, and VGG-16.
pub const PUBLISHED: [Published; 9] = [
    Published {
        name: "vgg16_bn",
        title: "VGG-16",
        // The paper's network has no batch norm.
        paper: Some((errors(27.0, 8.8, 256), Source::VggTable3)),
        remark: None,
        timm: Some((errors(26.630, 8.486, 224), "vgg16_bn.tv_in1k")),
    },
    Published {
        name: "resnet101",
        title: "ResNet-101",
        paper: Some((errors(22.0, 6.0, 224), Source::ResNextTable4)),
        remark: None,
        timm: Some((errors(20.690, 5.478, 224), "resnet101.gluon_in1k")),
    },
    Published {
        name: "resnet200",
        title: "ResNet-200",
        paper: Some((errors(21.7, 5.8, 224), Source::ResNextTable4)),
        remark: Some("ResNet-200 in the paper normalises before each convolution; the network here after it"),
        timm: None,
    },
    Published {
        name: "resnet101_1x100d",
        title: "ResNet-101, wider",
        paper: Some((errors(21.3, 5.7, 224), Source::ResNextTable4)),
        remark: None,
        timm: None,
    },
    Published {
        name: "inception_v3",
        title: "Inception-v3",
        paper: Some((errors(21.2, 5.6, 299), Source::ResNextTable5)),
        remark: None,
        timm: Some((errors(22.138, 6.356, 299), "inception_v3.tf_in1k")),
    },
    Published {
        name: "inception_v4",
        title: "Inception-v4",
        paper: Some((errors(20.0, 5.0, 299), Source::ResNextTable5)),
        remark: None,
        timm: Some((errors(19.844, 5.032, 299), "inception_v4.tf_in1k")),
    },
    Published {
        name: "inception_resnet_v2",
        title: "Inception-ResNet-v2",
        paper: Some((errors(19.9, 4.9, 299), Source::ResNextTable5)),
        remark: None,
        timm: Some((errors(19.538, 4.692, 299), "inception_resnet_v2.tf_in1k")),
    },
    Published {
        name: "resnext101_32x4d",
        title: "ResNeXt-101 32×4d",
        paper: Some((errors(21.2, 5.6, 224), Source::ResNextTable4)),
        remark: None,
        timm: Some((errors(19.660, 5.070, 224), "resnext101_32x4d.gluon_in1k")),
    },
    Published {
        name: "resnext101_64x4d",
        title: "ResNeXt-101 64×4d",
        paper: Some((errors(20.4, 5.3, 224), Source::ResNextTable4)),
        remark: None,
        timm: Some((errors(19.400, 5.008, 224), "resnext101_64x4d.gluon_in1k")),
    },
];

/// The published figures of the network called `name`.
pub fn of(name: &str) -> Option<&'static Published> {
    PUBLISHED.iter().find(|published| published.name == name)
}
