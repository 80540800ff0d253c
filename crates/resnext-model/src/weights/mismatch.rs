//! How the weights of a file differ from those of a network, by name and shape.

use crate::layer_names;
use std::collections::BTreeMap;

/// Shapes by name.
type Shapes<'a> = BTreeMap<&'a str, &'a [usize]>;

/// The most names listed of each kind of problem.
const LISTED: usize = 10;

/// Compares the weights that a file has, `found`, with those that a network requires, by name and shape.
/// `None` if they are the same; otherwise one line that counts the weights of the wrong shape, the missing
/// and the unexpected, and lists the first ten of each.
pub fn weights_mismatch(required: &Shapes, found: &Shapes) -> Option<String> {
    let misshapen = required.iter().filter_map(|(&name, &shape)| {
        let &got = found.get(name)?;
        (got != shape).then(|| wrong_shape(name, shape, got))
    });
    let without = |these: &Shapes, those: &Shapes| -> Vec<String> {
        these.keys().filter(|name| !those.contains_key(*name)).map(|name| name.to_string()).collect()
    };
    let mut problems = Vec::new();
    list(&mut problems, "of the wrong shape", misshapen.collect());
    list(&mut problems, "missing", without(required, found));
    list(&mut problems, "unexpected", without(found, required));
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// Another number of classes is by far the most frequent mismatch, so it has a message of its own.
fn wrong_shape(name: &str, expected: &[usize], got: &[usize]) -> String {
    match (expected, got) {
        (&[classes, features], &[other, same]) if layer_names::is_head(name) && features == same => {
            format!("expected {classes} classes, file has {other}: {name}")
        }
        _ => format!("expected shape {expected:?}, file has {got:?}: {name}"),
    }
}

fn list(problems: &mut Vec<String>, what: &str, names: Vec<String>) {
    if !names.is_empty() {
        let more = if names.len() > LISTED { ", …" } else { "" };
        let shown: Vec<String> =
            names.iter().take(LISTED).map(|name| name.escape_debug().to_string()).collect();
        problems.push(format!("{} {what}: {}{more}", names.len(), shown.join(", ")));
    }
}
