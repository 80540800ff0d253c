//! From the paths in the code to arrows between files.

use crate::modules::{Modules, Reference};
use std::collections::BTreeSet;

/// One file names something of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    /// Index of the file that names it.
    pub from: usize,
    /// Index of the file that defines it, or re-exports it on the way there.
    pub to: usize,
    /// The path, as it is written.
    pub path: String,
    /// Whether `to` only re-exports it.
    pub face: bool,
}

/// One crate names another, or one that is not of this workspace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrateUse {
    /// Index of the file.
    pub from: usize,
    /// The crate, as `use` lines call it.
    pub ident: String,
}

/// What all paths lead to.
pub struct Arrows {
    /// Arrows between files: within a crate, and from one that names the other.
    pub arrows: BTreeSet<Arrow>,
    /// Crates that files name, unit tests included.
    pub crates: BTreeSet<CrateUse>,
}

/// What a path leads to.
enum Target {
    Module(usize),
    /// Something that this file defines.
    Item(usize),
    /// A crate outside of the workspace, or a local name.
    Outside(String),
}

/// Follows every path.
pub fn follow(all: &Modules) -> Arrows {
    let mut arrows = Arrows { arrows: BTreeSet::new(), crates: BTreeSet::new() };
    for reference in &all.references {
        let mut faces = Vec::new();
        let target = resolve(all, reference.module, &reference.path, &mut faces, &mut BTreeSet::new());
        let from = all.modules[reference.module].file;
        if let Some(ident) = named_crate(all, reference, &target) {
            arrows.crates.insert(CrateUse { from, ident });
        }
        if reference.test {
            continue;
        }
        let glob = reference.path.last().is_some_and(|last| last == "*");
        let target = match target {
            // Nothing is used yet by naming a module; what is used of it is another path.
            Target::Module(module) if glob => Some(all.modules[module].file),
            Target::Item(file) => Some(file),
            _ => None,
        };
        let own = all.files[from].krate;
        // Of another crate's name that a file of this one re-exports, only that file is named here.
        let through_own = faces.iter().any(|&face| face != from && all.files[face].krate == own);
        // And of a third crate's name that another one re-exports, nothing is known here but the other one.
        let last = target.map(|file| all.files[file].krate);
        let through_other =
            faces.iter().any(|&face| all.files[face].krate != own && Some(all.files[face].krate) != last);
        for (to, face) in faces.iter().map(|&face| (face, true)).chain(target.map(|file| (file, false))) {
            let across = all.files[to].krate != own;
            if to == from || across && (face || through_own || through_other) {
                continue;
            }
            arrows.arrows.insert(Arrow { from, to, path: reference.path.join("::"), face });
        }
    }
    arrows
}

/// The crate that a path begins with.
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

/// Follows `path` from within `module`. `faces` gets the files whose `use` lines it passes through.
fn resolve(
    all: &Modules,
    module: usize,
    path: &[String],
    faces: &mut Vec<usize>,
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
                let found =
                    if global && first { None } else { look_up(all, here, name, (first, last), faces, seen) };
                let root = || all.idents.iter().position(|ident| ident == name).map(|i| all.roots[i]);
                match found {
                    Some(Target::Module(module)) => module,
                    Some(target) => return target,
                    None if first => match root() {
                        Some(root) => root,
                        None => return Target::Outside(name.to_string()),
                    },
                    // Defined by a macro of that module.
                    None => return Target::Item(all.modules[here].file),
                }
            }
        };
    }
    Target::Module(here)
}

/// What `module` calls `name`. Modules and items may share a name; the last segment of a path is either.
fn look_up(
    all: &Modules,
    module: usize,
    name: &str,
    (first, last): (bool, bool),
    faces: &mut Vec<usize>,
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
            faces.push(here.file);
        }
        faces.extend(inner);
        Some(target)
    };
    for import in here.imports.get(name).into_iter().flatten() {
        let mut inner = Vec::new();
        match resolve(all, module, import, &mut inner, seen) {
            // `use x;` of a name that is here already.
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
