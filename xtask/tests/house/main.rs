//! Checks the layout of the workspace: no circle of files that import each other, no import against the
//! picture in `docs/architecture.md`, no tensor library below the crates that must not know one, and no line of prose
//! that is too wide. [`controls`] shows for each kind of violation that it would be found.

mod arrows;
mod circles;
mod controls;
mod modules;
mod picture;
mod rules;
mod tree;
mod widths;

use std::path::{Path, PathBuf};

/// The workspace's folder.
fn root() -> PathBuf {
    let xtask = std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    Path::new(&xtask).join("..")
}

#[test]
fn the_workspace_keeps_to_its_layout() {
    let crates = tree::workspace(&root()).unwrap();
    let document = tree::text(&root().join("docs/architecture.md")).unwrap();
    let lock = tree::text(&root().join("Cargo.lock")).unwrap();
    assert!(crates.len() >= 6, "{} crates", crates.len());
    let found = rules::violations(&crates, &document, &lock);
    assert!(found.is_empty(), "{} violations:\n\n{}\n", found.len(), found.join("\n\n"));
}

/// Every path in backticks in `docs/architecture.md` exists, relative to the workspace's folder or to
/// `crates`.
#[test]
fn the_map_names_files_that_exist() {
    let document = tree::text(&root().join("docs/architecture.md")).unwrap();
    let named = document
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains('/') && !name.contains([' ', '\n']));
    let missing: Vec<&str> = named
        .filter(|name| !root().join(name).exists() && !root().join("crates").join(name).exists())
        .collect();
    assert!(missing.is_empty(), "docs/architecture.md names files that are not there: {missing:?}");
}
