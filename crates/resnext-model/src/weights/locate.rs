//! Finds the network among the tensors of a file, under whatever prefix a program keeps it, and gives its
//! tensors torchvision's names.
//!
//! A network is where `layer1.0.` and `conv1.` are. Keys of dictionaries (`state_dict`, `model_ema`), what
//! wrappers put before names (`module.`, `_orig_mod.`) and a program's own attributes (`backbone.`) are all
//! prefixes, so no list of them is needed.

use super::baseline;
use super::file::{Entries, Entry};
use super::mismatch::shown;
use crate::baselines::Baseline;
use std::collections::{BTreeMap, BTreeSet};

/// How the names of an optimizer's tensors start in this project's checkpoints.
pub(super) const OPTIMIZER_PREFIX: &str = "optimizer.";

/// How the names of averaged weights start in this project's checkpoints: a run is judged by those.
pub(super) const AVERAGE_PREFIX: &str = "optimizer.average.";

/// The tensors of a network.
#[derive(Debug, Default)]
pub(super) struct Located {
    /// The baseline that it is; `None` for a ResNet or another network.
    pub(super) baseline: Option<Baseline>,
    /// The network's tensors by torchvision's names.
    pub(super) entries: BTreeMap<String, Entry>,
    /// The names of tensors that do not belong to it, as they are in the file.
    pub(super) left_out: Vec<String>,
    /// Notes on choices that are not obvious, one line each.
    pub(super) notes: Vec<String>,
}

/// Parts of names that stand for averages of weights over training. Those are what a program evaluates, so
/// they take the place of the weights themselves.
const AVERAGED: [&str; 5] = ["ema", "averaged", "average", "swa", "shadow"];

/// Parts of names under which optimizers keep tensors that are named as the weights are.
const OPTIMIZER: [&str; 10] = [
    "optimizer",
    "optimizers",
    "optim",
    "optimizer_states",
    "opt",
    "momentum",
    "exp_avg",
    "exp_avg_sq",
    "grad",
    "grads",
];

/// Parts of names of what training has beside the network: losses and their weights, metrics.
const TRAINING: [&str; 12] = [
    "criterion",
    "criteria",
    "loss",
    "losses",
    "loss_fn",
    "loss_func",
    "loss_function",
    "metric",
    "metrics",
    "acc",
    "accuracy",
    "class_weights",
];

/// Compares the values of two tensors of the file.
type SameBytes<'a> = &'a mut dyn FnMut(&Entry, &Entry) -> bool;

/// Finds the network among the tensors of a file.
///
/// # Errors
/// A text, if there are several networks and nothing says which one is meant, if layers follow the last one,
/// or if a tensor of the network cannot be read.
pub(super) fn locate(entries: Entries, same_bytes: SameBytes) -> Result<Located, String> {
    let entries = without_optimizer(entries);
    let networks = networks(&entries);
    let Some((prefix, passed_over)) = choose(&entries, &networks, same_bytes)? else {
        if let Some((baseline, prefixes)) = baseline::find(&entries) {
            return locate_baseline(entries, baseline, prefixes, same_bytes);
        }
        let entries = entries.into_iter().filter(|(_, entry)| entry.is_ok()).collect();
        return Ok(Located { entries: readable(entries, "")?, ..Located::default() });
    };
    let mut located = Located::default();
    let head = head(&entries, &prefix, &networks)?;
    let mut own = Entries::new();
    let borrowed = statistics(&entries, &prefix, &passed_over);
    let borrows = borrowed.as_ref().map(|(from, _)| from.clone());
    for (name, entry) in entries {
        let inside = name.strip_prefix(prefix.as_str()).map(str::to_string);
        let in_head = head.as_ref().and_then(|head| Some(format!("fc.{}", name.strip_prefix(head)?)));
        match (in_head, inside) {
            (Some(renamed), _) => drop(own.insert(renamed, entry)),
            (None, Some(inside)) if !is_beside_the_network(&inside, &entry) => {
                drop(own.insert(inside, entry))
            }
            _ if is_counter(&name) || is_part(&name, &OPTIMIZER) => {}
            _ => located.left_out.push(name),
        }
    }
    own.extend(borrowed.into_iter().flat_map(|(_, statistics)| statistics));
    located.entries = readable(own, &prefix)?;
    located.notes = notes(&prefix, &passed_over, head.as_deref(), &located.left_out, &networks);
    located.notes.extend(borrows.map(|from| {
        let from = if from.is_empty() { "no prefix".into() } else { quoted(&from) };
        format!("the averaged weights have no running statistics: those under {from} are taken")
    }));
    Ok(located)
}

/// Batch norms' running statistics by their names in the network, for averaged weights that have none, from the network
/// that was averaged: some programs average parameters only. With the prefix that they are under.
fn statistics(entries: &Entries, prefix: &str, passed_over: &[String]) -> Option<(String, Entries)> {
    let of = |prefix: &str| -> Entries {
        let found = under(entries, prefix)
            .filter(|(name, _)| name.ends_with(".running_mean") || name.ends_with(".running_var"));
        found.map(|(name, entry)| (name[prefix.len()..].to_string(), entry.clone())).collect()
    };
    if !of(prefix).is_empty() {
        return None;
    }
    let mut networks = passed_over.iter().map(|from| (from.clone(), of(from)));
    networks.find(|(_, statistics)| !statistics.is_empty())
}

/// Finds a baseline under one of `prefixes`, as [`locate`] finds a ResNet.
fn locate_baseline(
    entries: Entries,
    baseline: Baseline,
    mut prefixes: BTreeSet<String>,
    same_bytes: SameBytes,
) -> Result<Located, String> {
    prefixes.retain(|prefix| !is_part(prefix, &OPTIMIZER));
    let (prefix, passed_over) = choose(&entries, &prefixes, same_bytes)?.unwrap_or_default();
    let mut located = Located { baseline: Some(baseline), ..Located::default() };
    let mut own = Entries::new();
    for (name, entry) in entries {
        match name.strip_prefix(prefix.as_str()) {
            _ if is_counter(&name) => {}
            Some(inside) if !baseline::is_beside(inside) => drop(own.insert(inside.to_string(), entry)),
            None if is_part(&name, &OPTIMIZER) => {}
            _ => located.left_out.push(name),
        }
    }
    located.entries = baseline::renamed(readable(own, &prefix)?, baseline);
    located.notes = notes(&prefix, &passed_over, None, &located.left_out, &prefixes);
    Ok(located)
}

/// Replaces the weights of a checkpoint by their averages, where it has some, and drops the optimizer's
/// state.
fn without_optimizer(entries: Entries) -> Entries {
    let (state, mut weights): (Entries, Entries) =
        entries.into_iter().partition(|(name, _)| name.starts_with(OPTIMIZER_PREFIX));
    let average = |(name, entry): (String, _)| Some((name.strip_prefix(AVERAGE_PREFIX)?.to_string(), entry));
    weights.extend(state.into_iter().filter_map(average));
    weights
}

/// The entries, if all of them can be read.
fn readable(entries: Entries, prefix: &str) -> Result<BTreeMap<String, Entry>, String> {
    let entries = entries.into_iter().filter(|(name, _)| !is_counter(name));
    entries
        .map(|(name, entry)| match entry {
            Ok(entry) => Ok((name, entry)),
            Err(problem) => Err(format!("{problem}: {}", shown(&format!("{prefix}{name}")))),
        })
        .collect()
}

/// The prefixes under which there is a network.
fn networks(entries: &Entries) -> BTreeSet<String> {
    const BLOCK: &str = "layer1.0.";
    let mut prefixes = BTreeSet::new();
    for name in entries.keys() {
        for (at, _) in name.match_indices(BLOCK) {
            let prefix = &name[..at];
            if (prefix.is_empty() || prefix.ends_with('.')) && !prefixes.contains(prefix) {
                prefixes.insert(prefix.to_string());
            }
        }
    }
    prefixes.retain(|prefix| {
        !is_part(prefix, &OPTIMIZER) && under(entries, &format!("{prefix}conv1.")).next().is_some()
    });
    prefixes
}

/// The tensors whose names start with `prefix`.
fn under<'a>(
    entries: &'a Entries,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, &'a Result<Entry, String>)> {
    let from = entries.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
    from.map(|(name, entry)| (name.as_str(), entry)).take_while(move |(name, _)| name.starts_with(prefix))
}

/// The prefix of the network that is meant, and those of networks that it replaces. `None` if there is no
/// network.
fn choose(
    entries: &Entries,
    networks: &BTreeSet<String>,
    same_bytes: SameBytes,
) -> Result<Option<(String, Vec<String>)>, String> {
    let (averaged, plain): (Vec<&String>, Vec<&String>) =
        networks.iter().partition(|prefix| is_part(prefix, &AVERAGED));
    let candidates = if averaged.is_empty() { &plain } else { &averaged };
    let Some(&first) = candidates.first() else { return Ok(None) };
    // A program may keep one network under two names, or the best one beside the last, which may be the same.
    if !candidates.iter().skip(1).all(|other| are_same(entries, first, other, same_bytes)) {
        let shown = |prefix: &&String| if prefix.is_empty() { "no prefix".into() } else { quoted(prefix) };
        let all: Vec<String> = candidates.iter().take(10).map(shown).collect();
        return Err(format!(
            "it has {} networks, under {}: expected one; save the one that is meant alone",
            candidates.len(),
            all.join(", ")
        ));
    }
    let chosen = first.to_string();
    let passed_over = if averaged.is_empty() { Vec::new() } else { plain };
    Ok(Some((chosen, passed_over.into_iter().cloned().collect())))
}

/// Whether the tensors under two prefixes have the same names, shapes, types and values.
fn are_same(entries: &Entries, one: &str, other: &str, same_bytes: SameBytes) -> bool {
    fn of<'a>(entries: &'a Entries, prefix: &'a str) -> Vec<(&'a str, &'a Result<Entry, String>)> {
        under(entries, prefix).map(|(name, entry)| (&name[prefix.len()..], entry)).collect()
    }
    let (one, other) = (of(entries, one), of(entries, other));
    // What takes no reading decides first.
    let fits = one.len() == other.len()
        && one.iter().zip(&other).all(|((name, entry), (other_name, other_entry))| {
            let kind = |entry: &Result<Entry, String>| {
                entry.as_ref().ok().map(|entry| (entry.shape.clone(), entry.dtype, entry.bytes))
            };
            name == other_name && kind(entry) == kind(other_entry)
        });
    fits && one.iter().zip(&other).all(|((_, entry), (_, other))| match (entry, other) {
        (Ok(entry), Ok(other)) => {
            let place = |entry: &Entry| (entry.file, entry.start, entry.strides.clone());
            place(entry) == place(other) || same_bytes(entry, other)
        }
        _ => true,
    })
}

/// The prefix of the last layer's names, if it is not `fc.` under the network's prefix. The layer may lie in a
/// `Sequential`, as `fc.1.`, or beside the network, as in `backbone.conv1` and `head.fc`.
///
/// # Errors
/// A text, if there is a further layer after the last one.
fn head(entries: &Entries, prefix: &str, networks: &BTreeSet<String>) -> Result<Option<String>, String> {
    let Some(features) = features(entries, prefix) else { return Ok(None) };
    let own = format!("{prefix}fc.");
    let mut scope = prefix;
    let mut found = None;
    if let Some(Ok(weight)) = entries.get(&format!("{own}weight")) {
        found = Some((own.clone(), weight.shape.first().copied().unwrap_or(0)));
    }
    // The layers that may be meant: within the network, or else beside it, level by level.
    while found.is_none() {
        let mut layers = linear_layers(entries, scope, prefix, networks).filter(|layer| layer.2 == features);
        match (layers.next(), layers.next()) {
            (Some((layer, classes, _)), None) => found = Some((layer, classes)),
            (None, _) if !scope.is_empty() => scope = parent(scope),
            // With several of them, the caller finds that there is no last layer.
            _ => return Ok(None),
        }
    }
    let Some((head, classes)) = found else { return Ok(None) };
    // A wrapper's layers are beside the network: one after the last layer would change the function.
    let around = if scope == prefix { parent(prefix) } else { scope };
    for scope in [prefix, around] {
        let further = linear_layers(entries, scope, prefix, networks)
            .find(|(layer, _, inputs)| *layer != head && *inputs == classes);
        if let Some((layer, outputs, inputs)) = further {
            return Err(format!(
                "expected one last layer, file has {} after {}: {outputs}×{inputs} weights",
                quoted(layer.trim_end_matches('.')),
                quoted(head.trim_end_matches('.'))
            ));
        }
    }
    Ok(Some(head).filter(|head| *head != own))
}

/// The prefix without its last part: `state_dict.` of `state_dict.backbone.`.
fn parent(prefix: &str) -> &str {
    let inner = prefix.strip_suffix('.').unwrap_or(prefix);
    inner.rfind('.').map_or("", |dot| &prefix[..=dot])
}

/// The linear layers under `scope` that belong neither to a stage of the network under `prefix`, nor to
/// another network, nor to training: what their names start with, their outputs and inputs.
fn linear_layers<'a>(
    entries: &'a Entries,
    scope: &'a str,
    prefix: &'a str,
    networks: &'a BTreeSet<String>,
) -> impl Iterator<Item = (String, usize, usize)> + 'a {
    under(entries, scope).filter_map(move |(name, entry)| {
        let layer = name.strip_suffix("weight").filter(|layer| layer.ends_with('.'))?;
        let &[outputs, inputs] = entry.as_ref().ok()?.shape.as_slice() else { return None };
        let in_stage = layer.strip_prefix(prefix).is_some_and(|inside| inside.starts_with("layer"));
        // Everything is under the empty prefix, so a network there owns no layer by that alone.
        let other = networks.iter().any(|network| {
            network != prefix && !prefix.starts_with(network.as_str()) && layer.starts_with(network.as_str())
        });
        let beside = is_part(name, &OPTIMIZER) || is_training(layer);
        (!in_stage && !other && !beside).then(|| (layer.to_string(), outputs, inputs))
    })
}

/// The number of channels that the last stage gives to the last layer.
fn features(entries: &Entries, prefix: &str) -> Option<usize> {
    let stages = (1..).take_while(|s| under(entries, &format!("{prefix}layer{s}.0.")).next().is_some());
    let last = format!("{prefix}layer{}.0.", stages.last()?);
    let norms = ["bn3.weight", "bn2.weight"];
    norms.iter().find_map(|norm| {
        let entry = entries.get(&format!("{last}{norm}"))?.as_ref().ok()?;
        entry.shape.first().copied()
    })
}

/// Whether a tensor under the network's prefix, by its name there, is none of the network's: counters and
/// other single numbers, what tools measured, losses, and outside of its layers integers and what has no layer's name.
fn is_beside_the_network(name: &str, entry: &Result<Entry, String>) -> bool {
    let first = name.split('.').next().unwrap_or(name);
    let in_a_layer = ["conv1", "bn1", "fc"].contains(&first) || first.starts_with("layer");
    let last = name.rsplit('.').next().unwrap_or(name);
    if is_counter(name) || ["total_ops", "total_params"].contains(&last) {
        return true;
    }
    let nowhere = !name.contains('.');
    match entry {
        Ok(entry) => {
            entry.shape.is_empty() || !in_a_layer && (nowhere || entry.dtype.is_err() || is_training(name))
        }
        Err(_) => !in_a_layer,
    }
}

/// PyTorch's count of the batches that a batch norm has seen in training.
fn is_counter(name: &str) -> bool {
    name.ends_with("num_batches_tracked")
}

/// Whether the tensor belongs to a loss or a metric.
fn is_training(name: &str) -> bool {
    name.split('.').any(|part| {
        let ends = ["_loss", "_acc", "_accuracy", "_metric", "_metrics"];
        TRAINING.contains(&part) || ends.iter().any(|end| part.ends_with(end))
    })
}

/// Whether one of `words` is a part of a name: between dots, or there between underscores.
fn is_part(name: &str, words: &[&str]) -> bool {
    let is_word = |part: &str| words.contains(&part) || part.split('_').any(|word| words.contains(&word));
    name.split('.').any(is_word)
}

fn quoted(name: &str) -> String {
    format!("`{}`", shown(name))
}

/// Notes for the user on the choice.
fn notes(
    prefix: &str,
    passed_over: &[String],
    head: Option<&str>,
    left_out: &[String],
    networks: &BTreeSet<String>,
) -> Vec<String> {
    let mut parts = Vec::new();
    if let Some(other) = passed_over.first() {
        let other = if other.is_empty() { "no prefix".into() } else { quoted(other) };
        parts.push(format!(
            "averaged weights are under {}, taken instead of those under {other}",
            quoted(prefix)
        ));
    } else if !prefix.is_empty() {
        parts.push(format!("the network is under {}", quoted(prefix)));
    }
    if let Some(head) = head {
        parts.push(format!("the last layer is {}", quoted(head.trim_end_matches('.'))));
    }
    // The tensors of a network that was passed over are many, and are mentioned already.
    let others = left_out.iter().filter(|name| {
        !networks.iter().any(|other| {
            other != prefix && !prefix.starts_with(other.as_str()) && name.starts_with(other.as_str())
        }) && !passed_over.iter().any(|other| name.starts_with(other.as_str()))
    });
    let others: Vec<String> = others.map(|name| shown(name)).collect();
    if !others.is_empty() {
        let more = if others.len() > 10 { format!(", … ({} in all)", others.len()) } else { String::new() };
        parts.push(format!("not used: {}{more}", others[..others.len().min(10)].join(", ")));
    }
    if parts.is_empty() { Vec::new() } else { vec![parts.join("; ")] }
}
