//! timm's `config.json` beside weights: its statements about images and classes, and whether the
//! network that it describes is one of ours.

use crate::architecture::Architecture;
use crate::config::{BlockKind, Config, Shortcut};
use crate::error::json_problem;
use crate::preprocessing::{CropMode, Preprocessing};
use crate::presets::anti_alias_of;
use crate::variants::{AntiAlias, Attention, StemConvs};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The fields of timm's `config.json`. Every field is either here, known not to matter to inference, refused, or
/// listed as unknown.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    pub(crate) architecture: String,
    /// The pooling that takes the place of strides, by `aa_layer` or the architecture's name.
    pub(crate) anti_alias: Option<AntiAlias>,
    pub(crate) classes: Option<usize>,
    pub(crate) images: ImageSettings,
    pub(crate) labels: Option<Vec<String>>,
    /// The names of fields whose meaning is not known here.
    pub(crate) unknown: Vec<String>,
}

/// The preparation of images: what `config.json` says of it.
#[derive(Debug, Default)]
pub(crate) struct ImageSettings {
    size: Option<(usize, usize)>,
    crop_pct: Option<f64>,
    crop_mode: Option<CropMode>,
    interpolation: Option<String>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

/// Fields at the top level, and those of `pretrained_cfg`, that do not change what a network computes from an
/// image: where it comes from, how it was trained, and what its weights' shapes say as well.
const UNIMPORTANT: [&str; 28] = [
    "classifier",
    "custom_load",
    "description",
    "file",
    "first_conv",
    "fixed_input_size",
    "has_aux",
    "hf_hub_filename",
    "hf_hub_id",
    "id2label",
    "label2id",
    "license",
    "min_input_size",
    "model_name",
    "model_type",
    "notes",
    "num_features",
    "origin_url",
    "paper_ids",
    "paper_name",
    "pool_size",
    "source",
    "state_dict",
    "tag",
    "test_crop_pct",
    "test_input_size",
    "transformers_version",
    "url",
];

/// The fields of timm's models that change what is computed from the same weights: at the top level, or in
/// `model_args`. With each, the values that ours computes. [`Network`] has those that depend on the weights.
///
/// Sizes that the shapes of the weights show, and settings of training, follow in [`HARMLESS_ARGS`].
const DECISIVE: [(&str, &[&str]); 18] = [
    ("act_layer", &["relu"]),
    ("block_reduce_first", &["1"]),
    ("bn_eps", &["1e-5"]),
    ("channel_order", &["rgb"]),
    ("down_kernel_size", &["1"]),
    ("features_only", &["false"]),
    ("global_pool", &["avg", "fast", "fastavg"]),
    ("in_chans", &["3"]),
    ("input_range", &["[0,1]", "[0.0,1.0]"]),
    ("input_space", &["rgb"]),
    ("label_offset", &["0"]),
    ("norm_eps", &["1e-5"]),
    ("norm_kwargs", &["{}"]),
    ("norm_layer", &["batchnorm2d", "batchnorm", "bn"]),
    ("output_stride", &["32"]),
    ("replace_stem_pool", &["false"]),
    ("replace_stride_with_dilation", &["[false,false,false]"]),
    ("test_time_pool", &["false"]),
];

/// How timm's names of networks begin whose layers are none of ours, or compute something else under the same names.
const OTHER_FAMILIES: [&str; 42] = [
    "bat_resne",
    "beit",
    "botnet",
    "coatnet",
    "convnext",
    "cspresne",
    "darknet",
    "deit",
    "densenet",
    "dla",
    "dpn",
    "eca_resnext26tn",
    "efficientnet",
    "eva",
    "gcresne",
    "ghostnet",
    "halonet",
    "hardcorenas",
    "hrnet",
    "lambda_resne",
    "legacy_se",
    "levit",
    "maxvit",
    "mobilenet",
    "nfnet",
    "pnasnet",
    "regnet",
    "repvgg",
    "res2ne",
    "resmlp",
    "resnest",
    "resnetrs",
    "resnetv2",
    "rexnet",
    "selecsls",
    "senet",
    "skresne",
    "swin",
    "tf_efficientnet",
    "tresnet",
    "vit",
    "xception",
];

/// Whether timm's network of this name is known to compute something else, whatever its weights are called.
fn is_of_another_family(architecture: &str) -> bool {
    OTHER_FAMILIES.iter().any(|family| architecture.starts_with(family)) || architecture.ends_with("_gn")
}

/// The fields that weights show too, with the values that those of one network have; and what takes the place
/// of strides, which weights do not show.
struct Network {
    expected: Vec<(&'static str, String)>,
    anti_alias: Option<AntiAlias>,
}

/// The values of `aa_layer`.
const ANTI_ALIASES: [(AntiAlias, &[&str]); 3] = [
    (AntiAlias::None, &[""]),
    (AntiAlias::Average, &["avg", "avgpool", "avgpool2d"]),
    (AntiAlias::Blur, &["blur", "blurpool", "blurpool2d"]),
];

impl Network {
    fn new(network: &Architecture) -> Self {
        let (shortcut, stem_convs, attention) = match network {
            Architecture::ResNext(Config { shortcut, stem_convs, attention, .. }) => {
                (*shortcut, *stem_convs, *attention)
            }
            // Its models have no such arguments.
            Architecture::Baseline { .. } => (Shortcut::Projection, StemConvs::Single, Attention::None),
        };
        let stem_type = match stem_convs {
            StemConvs::Single => "",
            StemConvs::Deep => "deep",
            StemConvs::Tiered => "deep_tiered",
        };
        let block_args = match attention {
            Attention::None => "{}",
            Attention::SqueezeExcite { .. } => r#"{"attn_layer":"se"}"#,
            Attention::Eca => r#"{"attn_layer":"eca"}"#,
        };
        let mut expected = vec![
            ("avg_down", (shortcut == Shortcut::Pooled).to_string()),
            ("stem_type", stem_type.into()),
            ("block_args", block_args.into()),
        ];
        if let Architecture::ResNext(Config { block, depths, cardinality, .. }) = network {
            let block = match block {
                BlockKind::Bottleneck => "bottleneck",
                BlockKind::Basic => "basicblock",
            };
            let depths: Vec<String> = depths.iter().map(usize::to_string).collect();
            expected.extend([
                ("block", block.into()),
                ("layers", format!("[{}]", depths.join(","))),
                ("cardinality", cardinality.to_string()),
                ("groups", cardinality.to_string()),
            ]);
        }
        Network { expected, anti_alias: None }
    }
}

/// Fields of `model_args` that the shapes of the weights show as well, or that matter to training only.
const HARMLESS_ARGS: [&str; 15] = [
    "base_width",
    "cache_dir",
    "channels",
    "checkpoint_path",
    "drop_block_rate",
    "drop_path_rate",
    "drop_rate",
    "exportable",
    "no_jit",
    "pretrained",
    "scriptable",
    "stem_width",
    "width_per_group",
    "zero_init_last",
    "zero_init_residual",
];

impl ConfigFile {
    /// Reads the text of a `config.json` beside weights of `network`. `None` if it is not timm's: the same keys
    /// may then mean something else.
    ///
    /// # Errors
    /// A text that names the field, what was expected and what was found.
    pub(crate) fn read(text: &str, network: &Architecture) -> Result<Option<Self>, String> {
        let text = text.trim_start_matches('\u{feff}');
        let value: Value = serde_json::from_str(text).map_err(|e| json_problem(&e))?;
        let Value::Object(mut fields) = value else { return Err("expected an object in braces".into()) };
        let Some(architecture) = take::<String>(&mut fields, "", "architecture")? else { return Ok(None) };
        if is_of_another_family(&architecture) {
            let name = architecture.escape_debug();
            return Err(format!("expected a ResNet, ResNeXt, Inception or VGG as architecture, got {name}"));
        }
        let mut network = Network::new(network);
        let mut unknown = Vec::new();
        let mut classes = take(&mut fields, "", "num_classes")?;
        if let Some(arguments) = take::<Map<String, Value>>(&mut fields, "", "model_args")? {
            check_arguments(arguments, &mut classes, &mut network)?;
        }
        let mut pretrained = take::<Map<String, Value>>(&mut fields, "", "pretrained_cfg")?;
        let mut images = ImageSettings::take(&mut fields, "")?;
        let mut names = Names::take(&mut fields, "")?;
        if let Some(pretrained) = &mut pretrained {
            // The class count of the weights that this network was fine-tuned from, and those weights' network.
            pretrained.remove("num_classes");
            pretrained.remove("architecture");
            images = images.overridden_by(ImageSettings::take(pretrained, "pretrained_cfg.")?);
            names = names.or(Names::take(pretrained, "pretrained_cfg.")?);
            rest(std::mem::take(pretrained), "pretrained_cfg.", &mut unknown, &mut network)?;
        }
        rest(fields, "", &mut unknown, &mut network)?;
        let anti_alias = network.anti_alias.or_else(|| anti_alias_of(&architecture));
        Ok(Some(ConfigFile { architecture, anti_alias, classes, images, labels: names.labels(), unknown }))
    }
}

/// Takes the field `name` out of an object, whose own name and a dot are `of`. A field that is null is
/// absent.
fn take<T: DeserializeOwned>(
    fields: &mut Map<String, Value>,
    of: &str,
    name: &str,
) -> Result<Option<T>, String> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            serde_json::from_value(value).map(Some).map_err(|e| format!("{of}{name}: {}", json_problem(&e)))
        }
    }
}

/// Checks the fields that nothing has taken: refuses those that change the function, and lists those that are
/// not known.
fn rest(
    fields: Map<String, Value>,
    of: &str,
    unknown: &mut Vec<String>,
    network: &mut Network,
) -> Result<(), String> {
    for (name, value) in fields {
        match decisive(of, &name, &value, network) {
            Some(verdict) => verdict?,
            None if UNIMPORTANT.contains(&name.as_str()) => {}
            None => unknown.push(format!("{of}{}", name.escape_debug())),
        }
    }
    Ok(())
}

/// Checks `model_args`, the arguments that the network was built with. One that is not known may change
/// anything, so it is refused.
fn check_arguments(
    arguments: Map<String, Value>,
    classes: &mut Option<usize>,
    network: &mut Network,
) -> Result<(), String> {
    for (name, value) in arguments {
        if name == "num_classes" {
            let own: Option<usize> = serde_json::from_value(value)
                .map_err(|e| format!("model_args.num_classes: {}", json_problem(&e)))?;
            if let (Some(own), Some(other)) = (own, *classes)
                && own != other
            {
                return Err(format!("num_classes is {other}, model_args.num_classes is {own}"));
            }
            *classes = own.or(*classes);
            continue;
        }
        match decisive("model_args.", &name, &value, network) {
            Some(verdict) => verdict?,
            None if HARMLESS_ARGS.contains(&name.as_str()) => {}
            None => {
                let name = name.escape_debug();
                return Err(format!(
                    "model_args.{name} is {}, which may change what the network computes: expected timm's \
                     arguments of a ResNet or ResNeXt",
                    shortened(&value)
                ));
            }
        }
    }
    Ok(())
}

/// Whether a field that changes the function has a value that ours computes. `None` for other fields.
fn decisive(of: &str, name: &str, value: &Value, network: &mut Network) -> Option<Result<(), String>> {
    let of_network =
        network.expected.iter().find(|(known, _)| *known == name).map(|(_, own)| vec![own.as_str()]);
    let of_every = || DECISIVE.iter().find(|(known, _)| *known == name).map(|(_, ours)| ours.to_vec());
    let every = || ANTI_ALIASES.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let ours = of_network.or_else(of_every).or_else(|| (name == "aa_layer").then(every))?;
    let given = match value {
        Value::String(text) => text.rsplit('.').next().unwrap_or(text).to_ascii_lowercase(),
        Value::Object(fields) if fields.values().all(Value::is_null) => "{}".into(),
        Value::Null if name == "aa_layer" => String::new(),
        Value::Null => return Some(no_pool(of, name)),
        other => other.to_string(),
    };
    let same_number = || {
        let number = value.as_f64()?;
        Some(ours.iter().any(|one| one.parse() == Ok(number)))
    };
    if ours.contains(&given.as_str()) || same_number() == Some(true) {
        if name == "aa_layer" {
            let named = ANTI_ALIASES.iter().find(|(_, names)| names.contains(&given.as_str()));
            network.anti_alias = named.map(|(kind, _)| *kind);
        }
        return Some(Ok(()));
    }
    let expected = ours.first().copied().unwrap_or_default();
    let expected = match (name, expected) {
        ("aa_layer", _) => "none, avg or blur",
        (_, "") => "none",
        (_, expected) => expected,
    };
    Some(Err(format!(
        "expected {name} {expected}, got {} ({of}{name}): the network would compute something else",
        shortened(value)
    )))
}

/// A field that is null has timm's default, which is ours, and no anti-aliasing is none; but no pool is not the
/// default pool.
fn no_pool(of: &str, name: &str) -> Result<(), String> {
    match name {
        "global_pool" => Err(format!("expected {name} avg, got null ({of}{name}): there would be no pool")),
        _ => Ok(()),
    }
}

/// A value, shortened to fit into one line of an error.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl ImageSettings {
    fn take(fields: &mut Map<String, Value>, of: &str) -> Result<Self, String> {
        let size: Option<(usize, usize, usize)> = take(fields, of, "input_size")?;
        if let Some((channels, ..)) = size
            && channels != 3
        {
            return Err(format!("expected images of 3 channels, got {channels} ({of}input_size)"));
        }
        Ok(ImageSettings {
            size: size.map(|(_, height, width)| (height, width)),
            crop_pct: take(fields, of, "crop_pct")?,
            crop_mode: match take::<String>(fields, of, "crop_mode")? {
                None => None,
                Some(mode) => Some(mode.parse().map_err(|e| format!("{of}crop_mode: {e}"))?),
            },
            interpolation: take(fields, of, "interpolation")?,
            mean: take(fields, of, "mean")?,
            std: take(fields, of, "std")?,
        })
    }

    /// These settings, or those of `other` where it has any.
    fn overridden_by(self, other: Self) -> Self {
        ImageSettings {
            size: other.size.or(self.size),
            crop_pct: other.crop_pct.or(self.crop_pct),
            crop_mode: other.crop_mode.or(self.crop_mode),
            interpolation: other.interpolation.or(self.interpolation),
            mean: other.mean.or(self.mean),
            std: other.std.or(self.std),
        }
    }

    /// Whether they say how pixels are normalised.
    pub(crate) fn normalize(&self) -> bool {
        self.mean.is_some() && self.std.is_some()
    }

    /// The preprocessing that these settings give, with that of `usual` where they give none.
    ///
    /// # Errors
    /// A text that names the setting, its range and the value.
    pub(crate) fn over(self, usual: &Preprocessing) -> Result<Preprocessing, String> {
        if let Some(crop_pct) = self.crop_pct.filter(|pct| *pct > 1.0) {
            return Err(format!("crop_pct must be above 0 and at most 1, got {crop_pct}"));
        }
        let preprocessing = Preprocessing {
            size: self.size.unwrap_or(usual.size),
            crop_pct: self.crop_pct.unwrap_or(usual.crop_pct),
            crop_mode: self.crop_mode.unwrap_or(usual.crop_mode),
            interpolation: self.interpolation.unwrap_or_else(|| usual.interpolation.clone()),
            mean: self.mean.unwrap_or(usual.mean),
            std: self.std.unwrap_or(usual.std),
        };
        preprocessing.check()?;
        Ok(preprocessing)
    }
}

/// The names of classes, and longer descriptions of some of the names.
#[derive(Default)]
struct Names {
    names: Option<Vec<String>>,
    descriptions: Option<BTreeMap<String, String>>,
}

impl Names {
    fn take(fields: &mut Map<String, Value>, of: &str) -> Result<Self, String> {
        let labels = take(fields, of, "labels")?;
        Ok(Names {
            names: take(fields, of, "label_names")?.or(labels),
            descriptions: take(fields, of, "label_descriptions")?,
        })
    }

    fn or(self, other: Self) -> Self {
        Names { names: self.names.or(other.names), descriptions: self.descriptions.or(other.descriptions) }
    }

    /// The name of each class, or its description if it has one.
    fn labels(self) -> Option<Vec<String>> {
        let descriptions = self.descriptions.unwrap_or_default();
        let label = |name: String| descriptions.get(&name).cloned().unwrap_or(name);
        Some(self.names?.into_iter().map(label).collect())
    }
}
