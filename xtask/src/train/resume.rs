//! Settings that may change when a run is resumed. A change is refused, with the reason, if the rest of the run would not be
//! what the settings say; every other change is reported.

use crate::recipe::Recipe;
use anyhow::{Result, bail};
use resnext_train::Progress;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Compares the recipe of a run at `progress` with the one that it is to continue by. Returns a line for each
/// setting that changes.
///
/// # Errors
/// If a setting changes that cannot change at this point.
pub fn changes(saved: &Recipe, recipe: &Recipe, progress: &Progress) -> Result<Vec<String>> {
    let (saved, recipe) = (serde_json::to_value(saved)?, serde_json::to_value(recipe)?);
    let (Value::Object(saved), Value::Object(recipe)) = (&saved, &recipe) else {
        bail!("a recipe is a table of settings");
    };
    let mut lines = Vec::new();
    for (name, old, new) in differences(saved, recipe) {
        if name == "form" && recipe.contains_key("lamb") {
            bail!(
                "cannot change the form of a run with LAMB on resumption: its steps are scaled per tensor, and the \
                 forms have different tensors; start a new run from these weights with --weights"
            );
        }
        let change = match optimizer(saved).zip(optimizer(recipe)) {
            Some((from, to)) if from != to && OPTIMIZERS.contains(&name.as_str()) => {
                format!("the optimizer from {from} to {to}")
            }
            _ => format!("{} from {} to {}", name.replace('_', " "), shown(old), shown(new)),
        };
        if let Some(reason) = refusal(&name, old, new, progress.images > 0) {
            bail!("cannot change {change} on resumption: {reason}");
        }
        lines.push(change);
    }
    Ok(lines)
}

/// The settings that differ, with their values; those of a table that both have by names such as `photos.size`.
fn differences<'a>(
    saved: &'a Map<String, Value>,
    recipe: &'a Map<String, Value>,
) -> Vec<(String, Option<&'a Value>, Option<&'a Value>)> {
    let names: BTreeSet<&String> = saved.keys().chain(recipe.keys()).collect();
    let of = |name: &String| match (saved.get(name), recipe.get(name)) {
        (old, new) if old == new => Vec::new(),
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let inner = differences(old, new).into_iter();
            inner.map(|(key, old, new)| (format!("{name}.{key}"), old, new)).collect()
        }
        (old, new) => vec![(name.clone(), old, new)],
    };
    names.into_iter().flat_map(of).collect()
}

/// The tables of optimizers in a recipe, of which it has one.
const OPTIMIZERS: [&str; 3] = ["sgd", "adamw", "lamb"];

/// The optimizer of a recipe.
fn optimizer(recipe: &Map<String, Value>) -> Option<&'static str> {
    OPTIMIZERS.into_iter().find(|name| recipe.contains_key(*name))
}

/// Why this setting cannot change, within an epoch or between two; `None` if it can.
fn refusal(name: &str, old: Option<&Value>, new: Option<&Value>, within_epoch: bool) -> Option<&'static str> {
    match name {
        "model" | "network" => Some("the checkpoint does not fit the network; start a new run"),
        "dataset" | "train_images" => Some("a run stays on its data set; start a new run"),
        "weights" => Some("a run starts from weights only once; start a new run"),
        "sgd" | "adamw" | "lamb" if old.is_none() || new.is_none() => Some(
            "one optimizer cannot use the state of another; start a new run from these weights with --weights",
        ),
        "zero_init_last" => Some("it is a setting of the initial weights, which are past; start a new run"),
        "seed" | "photos.repeats" if within_epoch => Some(
            "the rest of this epoch would be in another order, with images twice or never; \
             resume to the end of the epoch first",
        ),
        _ => None,
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "none".into(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}
