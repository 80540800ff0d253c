//! Networks by name: those of the paper's tables 2 to 7, those of torchvision and timm, and small ones.

use crate::config::{BlockKind, Config, Form, Shortcut, StemKind};
use crate::error::{Error, Result};
use crate::variants::{AntiAlias, Attention, StemConvs};

/// The depth in a name, with the blocks per stage, stem and planes that it stands for.
const FAMILIES: [(&str, &[usize], StemKind, usize); 15] = [
    ("10", &[1, 1, 1, 1], StemKind::ImageNet, 64),
    ("14", &[1, 1, 1, 1], StemKind::ImageNet, 64),
    ("18", &[2, 2, 2, 2], StemKind::ImageNet, 64),
    ("26", &[2, 2, 2, 2], StemKind::ImageNet, 64),
    ("34", &[3, 4, 6, 3], StemKind::ImageNet, 64),
    ("50", &[3, 4, 6, 3], StemKind::ImageNet, 64),
    ("101", &[3, 4, 23, 3], StemKind::ImageNet, 64),
    ("152", &[3, 8, 36, 3], StemKind::ImageNet, 64),
    ("200", &[3, 24, 36, 3], StemKind::ImageNet, 64),
    ("201", &[3, 24, 36, 4], StemKind::ImageNet, 64),
    ("269", &[3, 30, 48, 8], StemKind::ImageNet, 64),
    ("light", &[1, 1, 11, 3], StemKind::ImageNet, 64),
    ("29", &[3, 3, 3], StemKind::Cifar, 64),
    ("20", &[2, 2, 2], StemKind::Cifar, 16),
    ("11", &[1, 1, 1], StemKind::Cifar, 16),
];

/// The depths of networks with basic blocks.
const BASIC: [&str; 3] = ["10", "18", "34"];

/// Other names of networks, each with the name by depth, cardinality and width.
const ALIASES: [(&str, &str); 3] = [
    ("wide_resnet50_2", "resnet50_1x128d"),
    ("wide_resnet101_2", "resnet101_1x128d"),
    ("seresnext26tn_32x4d", "seresnext26t_32x4d"),
];

/// The networks that the paper, torchvision, timm or this project's recipes name.
const NAMES: [&str; 54] = [
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
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnet10t",
    "resnet14t",
    "resnet18d",
    "resnet26d",
    "resnet34d",
    "resnet50c",
    "resnet50d",
    "resnet50s",
    "resnet101d",
    "resnet152d",
    "resnet200d",
    "resnext50d_32x4d",
    "resnetaa50",
    "resnetaa50d",
    "resnetaa101d",
    "resnetblur50",
    "seresnet50",
    "seresnet152d",
    "seresnext26t_32x4d",
    "seresnext50_32x4d",
    "seresnext101_32x4d",
    "seresnext101_32x8d",
    "seresnext101d_32x8d",
    "seresnextaa101d_32x8d",
    "ecaresnet50d",
    "ecaresnext50t_32x4d",
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
    /// timm's relatives have letters around the depth: `se` or `eca` in front for attention, `aa` or `blur` for
    /// anti-aliasing, and `c`, `d`, `s` or `t` after it for a stem of three convolutions and, with `d` and
    /// `t`, pooled shortcuts, as in `seresnextaa101d_32x8d`.
    ///
    /// # Errors
    /// [`Error::UnknownModel`], which suggests the most similar preset.
    pub fn by_name(name: &str) -> Result<Self> {
        let unknown = || {
            let near = |known: &&&str| (strsim::jaro_winkler(name, known) * 1e6) as u32;
            let nearest = NAMES.iter().max_by_key(near).filter(|known| near(known) > 700_000).copied();
            Error::UnknownModel { name: name.to_string(), nearest, known: &NAMES }
        };
        let systematic = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, same)| same);
        let parts = Parts::of(systematic).ok_or_else(unknown)?;
        let config = parts.config().ok_or_else(unknown)?;
        config.validate()?;
        Ok(config)
    }
}

/// The anti-aliasing of networks that timm calls so; `None` if the name is not one of timm's for a ResNet.
pub(crate) fn anti_alias_of(architecture: &str) -> Option<AntiAlias> {
    Parts::of(architecture).map(|parts| parts.anti_alias)
}

/// The parts of a name: `se`, `resnext`, `aa`, `101`, `d` and `32x8d` of `seresnextaa101d_32x8d`.
struct Parts<'a> {
    attention: Attention,
    /// Whether it is a ResNeXt, which says its cardinality, rather than a ResNet.
    next: bool,
    anti_alias: AntiAlias,
    depth: &'a str,
    /// The letter after the depth.
    letter: Option<char>,
    /// The part after an underscore.
    size: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let reduction = 16;
        let (attention, rest) = match (name.strip_prefix("se"), name.strip_prefix("eca")) {
            (Some(rest), _) => (Attention::SqueezeExcite { reduction }, rest),
            (_, Some(rest)) => (Attention::Eca, rest),
            _ => (Attention::None, name),
        };
        let (next, rest) = match rest.strip_prefix("resnext") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix("resnet")?),
        };
        let (anti_alias, rest) = match (rest.strip_prefix("aa"), rest.strip_prefix("blur")) {
            (Some(rest), _) => (AntiAlias::Average, rest),
            (_, Some(rest)) => (AntiAlias::Blur, rest),
            _ => (AntiAlias::None, rest),
        };
        let (depth, size) = rest.split_once('_').map_or((rest, None), |(depth, size)| (depth, Some(size)));
        let letter = depth.chars().last().filter(|letter| "cdst".contains(*letter) && depth != "light");
        let depth = letter.and_then(|letter| depth.strip_suffix(letter)).unwrap_or(depth);
        Some(Parts { attention, next, anti_alias, depth, letter, size })
    }

    /// The network of this name, if there is one.
    fn config(&self) -> Option<Config> {
        let &(_, depths, stem, planes) = FAMILIES.iter().find(|family| family.0 == self.depth)?;
        let basic = BASIC.contains(&self.depth);
        let light = self.depth == "light";
        // Basic blocks have one path of one width; timm's letters belong to ImageNet's networks.
        let lettered = self.letter.is_some() || self.anti_alias != AntiAlias::None;
        if basic && self.size.is_some()
            || stem != StemKind::ImageNet && lettered
            || light && (self.attention != Attention::Eca || self.next || self.size.is_some() || lettered)
        {
            return None;
        }
        let size = match (self.size, self.next) {
            (Some(size), _) => size,
            (None, false) => "1x64d",
            (None, true) => return None,
        };
        let (cardinality, width) = size.strip_suffix('d')?.split_once('x')?;
        let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0') {
            true => text.parse::<usize>().ok(),
            false => None,
        };
        let cardinality = number(cardinality)?;
        // `resnet` means cardinality 1: other networks are called `resnext`.
        if !self.next && cardinality != 1 {
            return None;
        }
        let pooled = light || matches!(self.letter, Some('d' | 't'));
        Some(Config {
            cardinality,
            base_width: number(width)?,
            widths: Vec::new(),
            depths: depths.to_vec(),
            planes,
            block: if basic { BlockKind::Basic } else { BlockKind::Bottleneck },
            stem,
            stem_convs: match self.letter {
                None => StemConvs::Single,
                Some('t') => StemConvs::Tiered,
                Some(_) => StemConvs::Deep,
            },
            // timm's networks of depth 201 have the wide stem too.
            stem_channels: (self.letter == Some('s') || self.depth == "201").then_some(128),
            shortcut: if pooled { Shortcut::Pooled } else { Shortcut::Projection },
            attention: self.attention,
            anti_alias: self.anti_alias,
            classes: if stem == StemKind::ImageNet { 1000 } else { 10 },
            form: Form::C,
            zero_init_last: false,
        })
    }
}
