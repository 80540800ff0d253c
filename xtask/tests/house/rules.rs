//! The rules of the layout, and the messages about their violations.

use crate::arrows::{Arrow, follow};
use crate::circles::circles;
use crate::modules::Modules;
use crate::picture::{CrateRow, Picture};
use crate::tree::Crate;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Tensor libraries, by name or by the first part of a name with a hyphen. A crate whose `outside` is limited
/// must not depend on any, directly or indirectly.
const TENSORS: [&str; 8] = ["candle", "burn", "dfdx", "ndarray", "nalgebra", "ort", "tch", "tract"];

/// The violations of `crates` against the picture in `document`, one message each. `lock` is the text of
/// `Cargo.lock`.
pub fn violations(crates: &[Crate], document: &str, lock: &str) -> Vec<String> {
    let picture = match Picture::parse(document) {
        Ok(picture) => picture,
        Err(problem) => return vec![format!("the picture: {problem}")],
    };
    let all = Modules::new(crates);
    let mut found = all.problems.clone();
    let ways = follow(&all);
    for (index, krate) in crates.iter().enumerate() {
        let own: Vec<&Arrow> =
            ways.arrows.iter().filter(|arrow| all.files[arrow.from].krate == index).collect();
        found.extend(through_root(krate, index, &all, &own));
        found.extend(in_circles(krate, index, &all, &own));
        let Some(row) = picture.row(krate) else {
            found.push(format!("the picture: no row for {}", krate.name));
            continue;
        };
        found.extend(against_wings(crates, &picture, krate, row, &all, &own));
        let files = ways.crates.iter().filter(|named| all.files[named.from].krate == index);
        let named = files.map(|named| (all.files[named.from].path.as_str(), named.ident.as_str()));
        found.extend(against_layers(crates, krate, row, &named.collect::<Vec<_>>(), lock));
    }
    found
}

/// Imports through the crate's own root, whose re-exports are for other crates.
fn through_root(krate: &Crate, index: usize, all: &Modules, own: &[&Arrow]) -> Vec<String> {
    let root = all.modules[all.roots[index]].file;
    let mut paths: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for arrow in own.iter().filter(|arrow| arrow.to == root) {
        paths.entry(arrow.from).or_default().push(&arrow.path);
    }
    let told = |(from, paths): (usize, Vec<&str>)| {
        let (file, paths, root) = (&all.files[from].path, paths.join(", "), krate.root());
        format!("{}: {file} uses {paths} through {root}: import it from the file that defines it", krate.name)
    };
    paths.into_iter().map(told).collect()
}

/// Circles of files, each with the imports of a shortest one. The root is left out; [`through_root`] reports
/// imports of it.
fn in_circles(krate: &Crate, index: usize, all: &Modules, own: &[&Arrow]) -> Vec<String> {
    let root = all.modules[all.roots[index]].file;
    let within = own.iter().filter(|arrow| all.files[arrow.to].krate == index && arrow.to != root);
    let mut names: BTreeMap<(usize, usize), &Arrow> = BTreeMap::new();
    for arrow in within {
        // Prefer a name that `to` defines to one that it re-exports.
        let name = names.entry((arrow.from, arrow.to)).or_insert(arrow);
        if name.reexport && !arrow.reexport {
            *name = arrow;
        }
    }
    let told = |(set, around): (Vec<usize>, Vec<usize>)| {
        let mut text = format!("{}: {} files import each other in a circle:", krate.name, set.len());
        for (i, &from) in around.iter().enumerate() {
            let to = around[(i + 1) % around.len()];
            let arrow = names[&(from, to)];
            let through = if arrow.reexport { ", through" } else { ", of" };
            let (from, to) = (&all.files[from].path, &all.files[to].path);
            let _ = write!(text, "\n    {from} uses {}{through} {to}", arrow.path);
        }
        if set.len() > around.len() {
            let others =
                set.iter().filter(|file| !around.contains(file)).map(|&file| all.files[file].path.as_str());
            let _ = write!(text, "\n    and with them {}", others.collect::<Vec<_>>().join(", "));
        }
        text
    };
    circles(&names.keys().copied().collect::<BTreeSet<_>>()).into_iter().map(told).collect()
}

/// Imports without an arrow in the picture, arrows without an import, and files that belong to no wing.
fn against_wings(
    crates: &[Crate],
    picture: &Picture,
    krate: &Crate,
    row: &CrateRow,
    all: &Modules,
    own: &[&Arrow],
) -> Vec<String> {
    let mut found = Vec::new();
    if row.wings.is_empty() {
        return found;
    }
    let files = all.files.iter().filter(|file| crates[file.krate].name == krate.name && !file.test);
    let homeless = files.filter(|file| file.path != krate.root() && row.wing(&file.path).is_none());
    found.extend(
        homeless.map(|file| format!("the picture: {} of {} belongs to no wing", file.path, krate.name)),
    );
    let places = row.wings.iter().flat_map(|wing| &wing.places);
    let empty = places.filter(|place| !krate.files.keys().any(|file| file.starts_with(place.as_str())));
    found.extend(empty.map(|place| format!("the picture: {} has no {place}", krate.name)));
    let mut missing: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for arrow in own {
        let (from, to) = (&all.files[arrow.from], &all.files[arrow.to]);
        let other = &crates[to.krate];
        let (Some(wing), Some(other_row)) = (row.wing(&from.path), picture.row(other)) else { continue };
        let Some(target) = other_row.wing(&to.path) else { continue };
        used.insert((wing.name.as_str(), other.name.as_str(), target.name.as_str()));
        let allowed = if from.krate == to.krate {
            wing.name == target.name || wing.imports.contains(&target.name)
        } else {
            let mut named = row.wings.iter().flat_map(|wing| &wing.others);
            !named.any(|(krate, _)| *krate == other.name)
                || wing.others.contains(&(other.name.clone(), target.name.clone()))
        };
        if !allowed {
            let place = if from.krate == to.krate { String::new() } else { format!(" of {}", other.name) };
            let told = format!("the picture has no arrow from {} to {}{place}", wing.name, target.name);
            let uses = format!("{} of {}", arrow.path, to.path);
            missing.entry((&from.path, told)).or_default().push(uses);
        }
    }
    for wing in &row.wings {
        let own = wing.imports.iter().map(|name| (&krate.name, name));
        let others = wing.others.iter().map(|(krate, name)| (krate, name));
        for (other, name) in own.chain(others) {
            if !used.contains(&(wing.name.as_str(), other.as_str(), name.as_str())) {
                let wing = format!("{} {}", krate.name, wing.name);
                found.push(format!("the picture: no file of {wing} uses {name} of {other}"));
            }
        }
    }
    found.extend(
        missing
            .into_iter()
            .map(|((file, told), uses)| format!("{}: {file} uses {}: {told}", krate.name, uses.join(", "))),
    );
    found
}

/// Dependencies on crates that the picture does not allow: of the workspace, and external ones.
fn against_layers(
    crates: &[Crate],
    krate: &Crate,
    row: &CrateRow,
    named: &[(&str, &str)],
    lock: &str,
) -> Vec<String> {
    let mut found = BTreeSet::new();
    let of_workspace = |name: &str| crates.iter().find(|other| other.name == name || other.ident() == name);
    for (file, ident) in named {
        match of_workspace(ident) {
            Some(other) if other.name == krate.name || row.imports.contains(&other.name) => {}
            Some(other) => {
                found.insert(format!(
                    "{}: {file} uses {ident}: the picture has no arrow to {}",
                    krate.name, other.name
                ));
            }
            None if row.outside.is_some() && is_tensors(ident) => {
                found.insert(format!("{}: {file} uses {ident}, a crate of tensors", krate.name));
            }
            None => {}
        }
    }
    let dependencies = dependencies(&krate.manifest);
    for name in row.imports.iter().chain(row.outside.iter().flatten()) {
        if !dependencies.iter().any(|(_, dependency)| dependency == name) {
            found.insert(format!("the picture: Cargo.toml of {} has no {name}", krate.name));
        }
    }
    for (section, name) in dependencies {
        match (of_workspace(&name), &row.outside) {
            (Some(other), _) if row.imports.contains(&other.name) => {}
            (Some(_), _) => {
                found.insert(format!(
                    "{}: {section} of Cargo.toml has {name}: the picture has no arrow to it",
                    krate.name
                ));
            }
            (None, Some(outside)) if section != "dev-dependencies" && !outside.contains(&name) => {
                found.insert(format!(
                    "{}: {section} of Cargo.toml has {name}, which is not among the picture's: {}",
                    krate.name,
                    outside.join(", ")
                ));
            }
            _ => {}
        }
    }
    if row.outside.is_some()
        && let Some(way) = way_to_tensors(&krate.name, lock)
    {
        found.insert(format!("{}: Cargo.lock leads to a crate of tensors: {way}", krate.name));
    }
    found.into_iter().collect()
}

/// Whether a crate is a tensor library.
fn is_tensors(name: &str) -> bool {
    let name = name.replace('_', "-");
    TENSORS.iter().any(|tensors| name == *tensors || name.starts_with(&format!("{tensors}-")))
}

/// Every dependency of a manifest: its section and its name.
fn dependencies(manifest: &str) -> Vec<(String, String)> {
    const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
    let Ok(manifest) = manifest.parse::<toml::Table>() else { return Vec::new() };
    let targets = manifest.get("target").and_then(|targets| targets.as_table());
    let tables =
        targets.into_iter().flat_map(|targets| targets.values()).filter_map(|target| target.as_table());
    let mut found = Vec::new();
    for table in tables.chain([&manifest]) {
        for section in SECTIONS {
            let names = table.get(section).and_then(|section| section.as_table());
            for (name, value) in names.into_iter().flatten() {
                let renamed = value.get("package").and_then(|package| package.as_str());
                found.push((section.to_string(), renamed.unwrap_or(name).to_string()));
            }
        }
    }
    found
}

/// A chain of dependencies from `start` to a tensor library in `lock`, including dependencies of tests.
fn way_to_tensors(start: &str, lock: &str) -> Option<String> {
    let lock: toml::Table = lock.parse().ok()?;
    let packages = lock.get("package")?.as_array()?;
    let mut open = vec![vec![start.to_string()]];
    let mut seen = BTreeSet::new();
    while let Some(way) = open.pop() {
        let last = &way[way.len() - 1];
        if is_tensors(last) {
            return Some(way.join(" → "));
        }
        if !seen.insert(last.clone()) {
            continue;
        }
        for package in packages.iter().filter(|package| package["name"].as_str() == Some(last)) {
            let needed = package.get("dependencies").and_then(|needed| needed.as_array());
            for name in needed.into_iter().flatten().filter_map(|name| name.as_str()) {
                let name = name.split(' ').next().unwrap_or_default();
                open.push([&way[..], &[name.to_string()]].concat());
            }
        }
    }
    None
}
