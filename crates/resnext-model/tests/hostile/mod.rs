//! Hostile and odd files of weights, and configurations beside good ones, made here rather than kept: each has one line
//! in `expected.txt`, which is its error, or what was read of it.

mod configurations;
mod pickles;
mod safetensors_files;

use crate::common::{CPU, tensors};
use crate::tiny;
use resnext_model::{Pretrained, Ranges};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file's name in the table, and its bytes.
type File = (&'static str, Vec<u8>);

/// What is read of a file of weights, in one line: a network whose every tensor can be read, or the error.
fn outcome(path: &Path) -> String {
    let read = || -> resnext_model::Result<String> {
        let Pretrained { weights, .. } = Pretrained::open(path)?;
        for (name, _) in weights.shapes() {
            weights.tensor(name, &CPU)?;
        }
        let notes: String = weights.notes().iter().map(|note| format!("; {note}")).collect();
        Ok(format!("{} tensors{notes}", weights.shapes().count()))
    };
    read().unwrap_or_else(|error| error.to_string())
}

/// Compares lines by name with the table of `expected.txt` under a heading.
fn compare(heading: &str, found: &[(String, String)]) {
    let all = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/expected.txt");
    let all = std::fs::read_to_string(all).unwrap();
    let table = all.split("\n# ").find_map(|part| part.strip_prefix(heading)?.strip_prefix('\n'));
    let lines = table.unwrap_or_else(|| panic!("no table {heading}")).lines();
    let expected: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once(": ")).collect();
    let found: BTreeMap<&str, &str> =
        found.iter().map(|(name, line)| (name.as_str(), line.as_str())).collect();
    let names: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let differing = names.into_iter().filter(|name| expected.get(*name) != found.get(*name));
    let shown = |name: &&str| {
        let (got, wanted) =
            (found.get(name).unwrap_or(&"(not made)"), expected.get(name).unwrap_or(&"(nothing)"));
        format!("{name}: {got}\n  expected {wanted}\n")
    };
    let differing: Vec<String> = differing.map(shown).collect();
    assert!(differing.is_empty(), "{} of {}:\n{}", differing.len(), found.len(), differing.concat());
    for (name, line) in found {
        let clean = !line.chars().any(char::is_control) && !line.contains("{ ") && line.len() < 1000;
        assert!(clean, "{name}: {line}");
    }
}

/// A line without the folder's path, which differs from run to run.
fn without(line: &str, folder: &Path) -> String {
    line.replace(&format!("{}/", folder.display()), "").replace(&folder.display().to_string(), "the folder")
}

/// The inputs of a fuzz target in `fuzz/corpus`, at least `least`.
fn corpus(target: &str, least: usize) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= least, "{target}: {}", files.len());
    files
}

#[test]
fn weights_that_fuzzing_found_are_read_or_refused_in_one_line() {
    for file in corpus("weights", 200) {
        let line = outcome(&file);
        assert!(!line.chars().any(char::is_control), "{}: {line}", file.display());
    }
}

#[test]
fn ranges_that_fuzzing_found_are_read_again_as_they_were_written() {
    let mut read = 0;
    for file in corpus("ranges", 100) {
        let Ok(ranges) = serde_json::from_slice::<Ranges>(&std::fs::read(&file).unwrap()) else { continue };
        let written = serde_json::to_string(&ranges).unwrap();
        // JSON has no infinity, which a network refuses.
        if !written.contains("null") {
            assert_eq!(serde_json::from_str::<Ranges>(&written).unwrap(), ranges, "{}", file.display());
            read += 1;
        }
    }
    assert!(read > 0, "no input is a file of ranges");
}

#[test]
fn hostile_and_odd_weights_have_the_line_of_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    let files = [safetensors_files::files(), pickles::files()].concat();
    assert!(files.len() >= 70, "{}", files.len());
    let found = files.into_iter().map(|(name, bytes)| {
        std::fs::write(&path, bytes).unwrap();
        (name.to_string(), without(&outcome(&path), folder.path()))
    });
    compare("weights", &found.collect::<Vec<_>>());
}

#[test]
fn hostile_and_odd_indices_have_the_line_of_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    crate::common::save(&tensors(&tiny()), &path("a.safetensors"));
    std::fs::create_dir(path("folder")).unwrap();
    let many: BTreeMap<String, String> =
        (0..1001).map(|i| (i.to_string(), format!("{i}.safetensors"))).collect();
    let many = serde_json::json!({ "weight_map": many }).to_string();
    let map = |file: &str| format!(r#"{{"weight_map": {{"fc.bias": "{file}"}}}}"#);
    let indices = [
        ("an empty index", String::new()),
        ("an index of nothing", "{}".into()),
        ("an index of no files", r#"{"weight_map": {}}"#.into()),
        ("an index that is a list", "[]".into()),
        ("an index of deep nesting", "[".repeat(100_000)),
        ("an index of numbers", r#"{"weight_map": {"fc.bias": 3}}"#.into()),
        ("an index of itself", map("model.safetensors.index.json")),
        ("an index of another index", map("b.index.json")),
        ("an index of a folder", map("folder")),
        ("an index of a file that is missing", map("b.safetensors")),
        ("an index of a file above", map("../a.safetensors")),
        ("an index of a file from the root", map("/etc/passwd")),
        ("an index of a file of Windows", map("C:\\\\a.safetensors")),
        ("an index of a file without a name", map("")),
        ("an index of a hidden file", map(".a.safetensors")),
        ("an index of a name with a zero", map("a\\u0000.safetensors")),
        ("an index of too few tensors", map("a.safetensors")),
        ("an index of 1001 files", many),
    ];
    let index = path("model.safetensors.index.json");
    let found = indices.into_iter().map(|(name, text)| {
        std::fs::write(&index, text).unwrap();
        (name.to_string(), without(&outcome(&index), folder.path()))
    });
    compare("indices", &found.collect::<Vec<_>>());
}

#[test]
fn hostile_and_odd_configurations_have_the_line_of_the_table() {
    let folder = tempfile::tempdir().unwrap();
    crate::common::save(&tensors(&tiny()), &folder.path().join("model.safetensors"));
    let found = configurations::files().into_iter().map(|(name, bytes)| {
        std::fs::write(folder.path().join("config.json"), bytes).unwrap();
        let line = match Pretrained::open(folder.path()) {
            Err(error) => error.to_string(),
            Ok(found) => {
                let labels = found
                    .labels
                    .map_or(String::new(), |labels| format!("; {}", labels.join(", ").escape_debug()));
                let notes: String = found.notes.iter().map(|note| format!("; {note}")).collect();
                format!("{}{labels}{notes}", found.preprocessing)
            }
        };
        (name.to_string(), without(&line, folder.path()))
    });
    compare("configurations", &found.collect::<Vec<_>>());
}
