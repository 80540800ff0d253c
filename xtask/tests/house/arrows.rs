//! Resolves the paths in the code to arrows between files.

use crate::modules::{Modules, Reference};
use std::collections::BTreeSet;

/// An import: one file names something that another one defines or re-exports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    /// Index of the importing file.
    pub from: usize,
    /// Index of the file that defines the name, or that re-exports it.
    pub to: usize,
    /// The path as written in the code.
    pub path: String,
    /// Whether `to` re-exports the name rather than defines it.
    pub reexport: bool,
}

/// A file names another crate, of this workspace or an external one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrateUse {
    /// Index of the importing file.
    pub from: usize,
    /// The crate's name in `use` lines.
    pub ident: String,
}

/// The resolved imports of a workspace.
pub struct Arrows {
    /// Arrows between files, within a crate and across crates.
    pub arrows: BTreeSet<Arrow>,
    /// The crates named by each file, including its unit tests.
    pub crates: BTreeSet<CrateUse>,
}

/// The item that a path resolves to.
enum Target {
    Module(usize),
    /// An item defined in this file.
    Item(usize),
    /// A name that is not defined in the workspace: an external crate or a local name.
    Outside(String),
}

/// Resolves every path.
pub fn follow(all: &Modules) -> Arrows {
    let mut arrows = Arrows { arrows: BTreeSet::new(), crates: BTreeSet::new() };
    for reference in &all.references {
        let mut reexports = Vec::new();
        let target = resolve(all, reference.module, &reference.path, &mut reexports, &mut BTreeSet::new());
        let from = all.modules[reference.module].file;
        if let Some(ident) = named_crate(all, reference, &target) {
            arrows.crates.insert(CrateUse { from, ident });
        }
        if reference.test {
            continue;
        }
        let glob = reference.path.last().is_some_and(|last| last == "*");
        let target = match target {
            // Importing a module is no arrow yet; paths through it are.
            Target::Module(module) if glob => Some(all.modules[module].file),
            Target::Item(file) => Some(file),
            _ => None,
        };
        let own = all.files[from].krate;
        // A name of another crate that this crate re-exports is an import of the re-exporting file only.
        let through_own =
            reexports.iter().any(|&reexport| reexport != from && all.files[reexport].krate == own);
        // A name of a third crate that another crate re-exports says nothing about this crate's imports of
        // the third.
        let last = target.map(|file| all.files[file].krate);
        let through_other = reexports
            .iter()
            .any(|&reexport| all.files[reexport].krate != own && Some(all.files[reexport].krate) != last);
        for (to, reexport) in
            reexports.iter().map(|&reexport| (reexport, true)).chain(target.map(|file| (file, false)))
        {
            let across = all.files[to].krate != own;
            if to == from || across && (reexport || through_own || through_other) {
                continue;
            }
            arrows.arrows.insert(Arrow { from, to, path: reference.path.join("::"), reexport });
        }
    }
    arrows
}

/// The crate that a path starts with, if any.
fn named_crate(all: &Modules, reference: &Reference, target: &Target) -> Option<String> {
    let mut path = reference.path.iter().filter(|segment| !segment.is_empty());
    let first = path.next()?;
    let module = &all.modules[reference.module];
    match target {
        Target::Outside(ident) => Some(ident.clone()),
        _ if all.idents.contains(first) && !module.children.contains_key(first) => Some(first.clone()),
        _ => None,
    }
}

/// Resolves `path` as written in `module`. The files that re-export it on the way are appended to
/// `reexports`; `seen` ends circles of globs.
fn resolve(
    all: &Modules,
    module: usize,
    path: &[String],
    reexports: &mut Vec<usize>,
    seen: &mut BTreeSet<(usize, String)>,
) -> Target {
    let global = path.first().is_some_and(String::is_empty);
    let path = if global { &path[1..] } else { path };
    let mut here = module;
    for (i, segment) in path.iter().enumerate() {
        let (first, last) = (i == 0, i + 1 == path.len());
        here = match segment.as_str() {
            "crate" if first => all.roots[all.modules[here].krate],
            "self" => here,
            "super" => all.modules[here].parent.unwrap_or(here),
            "*" => return Target::Module(here),
            name => {
                let found = if global && first {
                    None
                } else {
                    look_up(all, here, name, (first, last), reexports, seen)
                };
                let root = || all.idents.iter().position(|ident| ident == name).map(|i| all.roots[i]);
                match found {
                    Some(Target::Module(module)) => module,
                    Some(target) => return target,
                    None if first => match root() {
                        Some(root) => root,
                        None => return Target::Outside(name.to_string()),
                    },
                    // Not found, so it is generated by a macro in that module.
                    None => return Target::Item(all.modules[here].file),
                }
            }
        };
    }
    Target::Module(here)
}

/// Looks `name` up in `module`. A module and an item may share a name: the last segment of a path prefers the
/// item.
fn look_up(
    all: &Modules,
    module: usize,
    name: &str,
    (first, last): (bool, bool),
    reexports: &mut Vec<usize>,
    seen: &mut BTreeSet<(usize, String)>,
) -> Option<Target> {
    let here = &all.modules[module];
    let child = here.children.get(name).map(|&child| Target::Module(child));
    if !last && child.is_some() {
        return child;
    }
    if here.items.contains(name) {
        return Some(Target::Item(here.file));
    }
    if !seen.insert((module, name.to_string())) {
        return child;
    }
    let mut through = |target: Target, inner: Vec<usize>| {
        if !first {
            reexports.push(here.file);
        }
        reexports.extend(inner);
        Some(target)
    };
    for import in here.imports.get(name).into_iter().flatten() {
        let mut inner = Vec::new();
        match resolve(all, module, import, &mut inner, seen) {
            // `use x;` of a name that is in scope already.
            Target::Outside(other) if other == name && import.len() == 1 => {}
            Target::Module(found) if child.is_some() && here.children.get(name) == Some(&found) => {}
            target => return through(target, inner),
        }
    }
    if child.is_some() {
        return child;
    }
    for glob in &here.globs {
        let mut inner = Vec::new();
        if let Target::Module(other) = resolve(all, module, glob, &mut inner, seen)
            && let Some(target) = look_up(all, other, name, (false, last), &mut inner, seen)
        {
            return through(target, inner);
        }
    }
    None
}
