//! Networks by name: those of the paper's tables 2 to 7, those of torchvision and timm, and small ones.

use crate::config::{BlockKind, Config, Form, Shortcut, StemKind};
use crate::error::{Error, Result};

/// The depth in a name, with the blocks per stage, stem and planes that it stands for.
const FAMILIES: [(&str, &[usize], StemKind, usize); 9] = [
    ("18", &[2, 2, 2, 2], StemKind::ImageNet, 64),
    ("34", &[3, 4, 6, 3], StemKind::ImageNet, 64),
    ("50", &[3, 4, 6, 3], StemKind::ImageNet, 64),
    ("101", &[3, 4, 23, 3], StemKind::ImageNet, 64),
    ("152", &[3, 8, 36, 3], StemKind::ImageNet, 64),
    ("200", &[3, 24, 36, 3], StemKind::ImageNet, 64),
    ("29", &[3, 3, 3], StemKind::Cifar, 64),
    ("20", &[2, 2, 2], StemKind::Cifar, 16),
    ("11", &[1, 1, 1], StemKind::Cifar, 16),
];

/// The depths of networks with basic blocks.
const BASIC: [&str; 2] = ["18", "34"];

/// The networks that the paper, torchvision, timm or this project's recipes name.
const NAMES: [&str; 26] = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext50_2x40d",
    "resnext50_4x24d",
    "resnext50_8x14d",
    "resnext50_32x4d",
    "resnet101",
    "resnet101_1x100d",
    "resnext101_2x40d",
    "resnext101_4x24d",
    "resnext101_8x14d",
    "resnext101_32x4d",
    "resnext101_2x64d",
    "resnext101_64x4d",
    "resnext101_32x8d",
    "resnet152",
    "resnet200",
    "resnext29_8x64d",
    "resnext29_16x64d",
    "resnext29_32x4d",
    "resnext29_8x16d",
    "resnext20_8x4d",
    "resnext20_4x8d",
    "resnext11_8x4d",
    "resnext11_4x4d",
];

impl Config {
    /// The names of all presets, for example `resnext50_32x4d`.
    pub fn preset_names() -> &'static [&'static str] {
        &NAMES
    }

    /// The network of this name: a preset, or any `resnext{depth}_{C}x{d}d` with a depth of 50, 101, 152 or
    /// 200 for ImageNet and 11, 20 or 29 for CIFAR. ImageNet networks have 1000 classes, CIFAR networks 10;
    /// set [`Config::classes`] for another number.
    ///
    /// # Errors
    /// [`Error::UnknownModel`], which suggests the most similar preset.
    pub fn by_name(name: &str) -> Result<Self> {
        let unknown = || {
            let near = |known: &&&str| (strsim::jaro_winkler(name, known) * 1e6) as u32;
            let nearest = NAMES.iter().max_by_key(near).filter(|known| near(known) > 700_000).copied();
            Error::UnknownModel { name: name.to_string(), nearest, known: &NAMES }
        };
        let (depth, size) = match name.strip_prefix("resnext") {
            Some(rest) => rest.split_once('_').ok_or_else(unknown)?,
            None => {
                let rest = name.strip_prefix("resnet").ok_or_else(unknown)?;
                rest.split_once('_').unwrap_or((rest, "1x64d"))
            }
        };
        let (cardinality, width) =
            size.strip_suffix('d').and_then(|s| s.split_once('x')).ok_or_else(unknown)?;
        let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0') {
            true => text.parse::<usize>().map_err(|_| unknown()),
            false => Err(unknown()),
        };
        let &(_, depths, stem, planes) =
            FAMILIES.iter().find(|family| family.0 == depth).ok_or_else(unknown)?;
        let block = if BASIC.contains(&depth) { BlockKind::Basic } else { BlockKind::Bottleneck };
        // Basic blocks have one path of one width.
        if block == BlockKind::Basic && name.contains('_') {
            return Err(unknown());
        }
        let config = Config {
            cardinality: number(cardinality)?,
            base_width: number(width)?,
            depths: depths.to_vec(),
            planes,
            block,
            stem,
            shortcut: Shortcut::Projection,
            classes: if stem == StemKind::ImageNet { 1000 } else { 10 },
            form: Form::C,
            zero_init_last: false,
        };
        // `resnet` means cardinality 1: other networks are called `resnext`.
        if name.starts_with("resnet") && config.cardinality != 1 {
            return Err(unknown());
        }
        config.validate()?;
        Ok(config)
    }
}
