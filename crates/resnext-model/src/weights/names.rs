//! Other programs' names for the same weights.

use std::collections::BTreeMap;

/// What wrappers put before every name: `DataParallel`, `torch.compile`, a program's own attribute.
const PREFIXES: [&str; 5] = ["module.", "_orig_mod.", "model.", "backbone.", "net."];

/// How the names of an optimizer's tensors start in this project's checkpoints.
pub(super) const OPTIMIZER_PREFIX: &str = "optimizer.";

/// How the names of averaged weights start in this project's checkpoints: a run is judged by those.
pub(super) const AVERAGE_PREFIX: &str = "optimizer.average.";

/// Names that other programs give to the last layer.
const HEADS: [&str; 3] = ["last_linear.", "head.fc.", "classifier."];

/// The entries under torchvision's names, without those that are not weights of a network.
pub(super) fn torchvision_names<T>(entries: BTreeMap<String, T>) -> BTreeMap<String, T> {
    let mut entries = without_optimizer(entries);
    while let Some(prefix) = PREFIXES
        .iter()
        .find(|prefix| !entries.is_empty() && entries.keys().all(|name| name.starts_with(**prefix)))
    {
        entries =
            entries.into_iter().map(|(name, entry)| (name[prefix.len()..].to_string(), entry)).collect();
    }
    let has_fc = entries.contains_key("fc.weight");
    let renamed = |name: String| match HEADS.iter().find_map(|head| name.strip_prefix(head)) {
        Some(rest) if !has_fc => format!("fc.{rest}"),
        _ => name,
    };
    let counter = |name: &String| name.ends_with("num_batches_tracked");
    entries
        .into_iter()
        .filter(|(name, _)| !counter(name))
        .map(|(name, entry)| (renamed(name), entry))
        .collect()
}

/// Replaces the weights of a checkpoint by their averages, where it has some, and drops the optimizer's
/// state.
fn without_optimizer<T>(entries: BTreeMap<String, T>) -> BTreeMap<String, T> {
    let (state, mut weights): (BTreeMap<_, _>, BTreeMap<_, _>) =
        entries.into_iter().partition(|(name, _)| name.starts_with(OPTIMIZER_PREFIX));
    let average = |(name, entry): (String, T)| Some((name.strip_prefix(AVERAGE_PREFIX)?.to_string(), entry));
    weights.extend(state.into_iter().filter_map(average));
    weights
}
