//! The files of torchvision's pretrained weights, by their names, with the transforms they were measured
//! with. The files themselves say nothing about images.

use crate::architecture::Architecture;
use crate::preprocessing::Preprocessing;
use std::path::Path;

/// The beginnings of file names, and the shorter side that photos are resized to before a crop of 224, or 299 for
/// Inception-v3:
/// `IMAGENET1K_V1` weights want 256, those of the newer recipe (`IMAGENET1K_V2`) 232.
const FILES: [(&str, usize); 26] = [
    ("resnet18-5c106cde", 256),
    ("resnet18-f37072fd", 256),
    ("resnet34-333f7ec4", 256),
    ("resnet34-b627a593", 256),
    ("resnet50-19c8e357", 256),
    ("resnet50-0676ba61", 256),
    ("resnet50-11ad3fa6", 232),
    ("resnet101-5d3b4d8f", 256),
    ("resnet101-63fe2227", 256),
    ("resnet101-cd907fc2", 232),
    ("resnet152-b121ed2d", 256),
    ("resnet152-394f9c45", 256),
    ("resnet152-f82ba261", 232),
    ("resnext50_32x4d-7cdf4587", 256),
    ("resnext50_32x4d-1a0047aa", 232),
    ("resnext101_32x8d-8ba56ff5", 256),
    ("resnext101_32x8d-110c445d", 232),
    // The only recipe of this network, which torchvision calls V1, is the newer one.
    ("resnext101_64x4d-173b62eb", 232),
    ("wide_resnet50_2-95faca4d", 256),
    ("wide_resnet50_2-9ba9bcbe", 232),
    ("wide_resnet101_2-32ee1156", 256),
    ("wide_resnet101_2-d733dc28", 232),
    ("ig_resnext101_32x8-c38310e5", 256),
    ("vgg16_bn-6c64b313", 256),
    ("vgg19_bn-c79401a0", 256),
    ("inception_v3_google-0cc3c7bd", 342),
];

/// The preprocessing of a file of torchvision, if it is one by its name and its weights are of a network for
/// ImageNet.
pub(crate) fn preprocessing(path: &Path, network: &Architecture) -> Option<Preprocessing> {
    let name = path.file_name()?.to_str()?;
    let &(_, resize) = FILES.iter().find(|(start, _)| name.starts_with(start))?;
    let mut preprocessing = network.preprocessing();
    // Smaller images are those of CIFAR.
    if preprocessing.size.0 < 224 {
        return None;
    }
    preprocessing.set_resize(resize);
    preprocessing.interpolation = "bilinear".into();
    Some(preprocessing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_recipe_resizes_to_232() {
        let config = Architecture::by_name("resnext50_32x4d").unwrap();
        let resize = |name: &str| Some(preprocessing(Path::new(name), &config)?.resize());
        assert_eq!(resize("models/resnext50_32x4d-1a0047aa.pth"), Some(232));
        assert_eq!(resize("resnext50_32x4d-7cdf4587.pth"), Some(256));
        assert_eq!(resize("resnext50_32x4d-1a0047aa(1).pth"), Some(232));
        assert_eq!(resize("mine.pth"), None);
        let small = Architecture::by_name("resnext20_8x4d").unwrap();
        assert_eq!(preprocessing(Path::new("resnext50_32x4d-1a0047aa.pth"), &small), None);
    }
}
