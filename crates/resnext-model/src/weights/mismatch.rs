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
        these.keys().filter(|name| !those.contains_key(*name)).map(|name| shown(name)).collect()
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

/// A tensor's name in a message. It comes from a file, so that it may have any length and any characters.
pub(super) fn shown(name: &str) -> String {
    const LONGEST: usize = 120;
    match name.char_indices().nth(LONGEST) {
        _ if name.is_empty() => "a tensor without a name".into(),
        None => name.escape_debug().to_string(),
        Some((end, _)) => format!("{}…", name[..end].escape_debug()),
    }
}

fn list(problems: &mut Vec<String>, what: &str, names: Vec<String>) {
    if !names.is_empty() {
        let more = if names.len() > LISTED { ", …" } else { "" };
        let listed = &names[..names.len().min(LISTED)];
        problems.push(format!("{} {what}: {}{more}", names.len(), listed.join(", ")));
    }
}
