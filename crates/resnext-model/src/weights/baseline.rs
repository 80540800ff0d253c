//! Baselines among the tensors of a file: which one is there, and where.

use super::file::{Entries, Entry};
use crate::baselines::Baseline;
use std::collections::{BTreeMap, BTreeSet};

/// The first convolution of each baseline and a tensor near its end, which no other network has both of.
/// VGG-19 comes before VGG-16, whose layers have numbers that it has too.
const MARKS: [(Baseline, &str, &str); 5] = [
    (Baseline::InceptionV3, "Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight"),
    (Baseline::InceptionV4, "features.0.conv.weight", "features.21.branch3.1.conv.weight"),
    (Baseline::InceptionResNetV2, "conv2d_1a.conv.weight", "block8.conv2d.weight"),
    (Baseline::Vgg19, "features.0.weight", "features.50.running_mean"),
    (Baseline::Vgg16, "features.0.weight", "features.41.running_mean"),
];

/// timm's names of VGG's last layers, which are convolutions there, and torchvision's.
const VGG_LAYERS: [(&str, &str); 3] = [
    ("pre_logits.fc1.", "classifier.0."),
    ("pre_logits.fc2.", "classifier.3."),
    ("head.fc.", "classifier.6."),
];

/// The baseline in a file, and the prefixes under which its tensors are. `None` if there is none.
pub(super) fn find(entries: &Entries) -> Option<(Baseline, BTreeSet<String>)> {
    MARKS.iter().find_map(|(baseline, first, last)| {
        let prefixes = entries.keys().filter_map(|name| {
            let prefix = name.strip_suffix(last)?;
            let whole = prefix.is_empty() || prefix.ends_with('.');
            (whole && entries.contains_key(&format!("{prefix}{first}"))).then(|| prefix.to_string())
        });
        let prefixes: BTreeSet<String> = prefixes.collect();
        (!prefixes.is_empty()).then_some((*baseline, prefixes))
    })
}

/// Whether a tensor is none of the network's: the classifier in the middle of Inception-v3 is for training only.
pub(super) fn is_beside(name: &str) -> bool {
    name.starts_with("AuxLogits.")
}

/// The tensors under torchvision's names and in its shapes.
pub(super) fn renamed(entries: BTreeMap<String, Entry>, baseline: Baseline) -> BTreeMap<String, Entry> {
    if !matches!(baseline, Baseline::Vgg16 | Baseline::Vgg19) {
        return entries;
    }
    let rename = |(name, mut entry): (String, Entry)| {
        let layer =
            VGG_LAYERS.iter().find_map(|(timm, own)| Some(format!("{own}{}", name.strip_prefix(timm)?)));
        let Some(layer) = layer else { return (name, entry) };
        if let (&[output, ref inputs @ ..], None) = (entry.shape.as_slice(), &entry.strides)
            && inputs.len() > 1
        {
            entry.shape = vec![output, inputs.iter().product()];
        }
        (layer, entry)
    };
    entries.into_iter().map(rename).collect()
}
