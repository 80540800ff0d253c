//! Hostile and odd files, made here rather than kept: each has one line in `expected.txt`, which is its error, or what
//! was read of it.

mod archives;
mod corpus;
mod jpeg;
mod other_photos;
mod png;
mod tiff;

use resnext_data::Photo;
use std::collections::BTreeMap;

/// A file's name in the table, and its bytes.
pub type File = (&'static str, Vec<u8>);

/// The most bytes that decoding one of these photos may take. It is less than `Photo::decode` allows, so that a file
/// which claims much is quick.
const MEMORY: u64 = 64 << 20;

/// What a photo's bytes decode to, in one line: its size, the mean colour and a note, or else the error.
fn outcome(bytes: &[u8]) -> String {
    match Photo::decode_within(bytes, MEMORY) {
        Err(error) => error.to_string(),
        Ok(photo) => {
            let pixels = photo.pixels().len() / 3;
            let sum = |c: usize| photo.pixels().iter().skip(c).step_by(3).map(|&v| v as usize).sum::<usize>();
            let [r, g, b] = [0, 1, 2].map(|c| sum(c) / pixels);
            let note = photo.note().map_or(String::new(), |note| format!("; {note}"));
            format!("{}×{} of mean {r} {g} {b}{note}", photo.width(), photo.height())
        }
    }
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
    let names = expected.keys().chain(found.keys()).collect::<std::collections::BTreeSet<_>>();
    let differing = names.into_iter().filter(|name| expected.get(*name) != found.get(*name));
    let differing: Vec<String> = differing
        .map(|name| {
            format!(
                "{name}: {}\n  expected {}\n",
                found.get(name).unwrap_or(&"(not made)"),
                expected.get(name).unwrap_or(&"(nothing)")
            )
        })
        .collect();
    assert!(differing.is_empty(), "{} of {}:\n{}", differing.len(), found.len(), differing.concat());
    for (name, line) in found {
        let clean = !line.chars().any(char::is_control) && !line.contains("{ ") && line.len() < 400;
        assert!(clean, "{name}: {line}");
    }
}

#[test]
fn hostile_and_odd_photos_have_the_line_or_the_pixels_of_the_table() {
    let files = [png::files(), jpeg::files(), tiff::files(), other_photos::files()].concat();
    assert!(files.len() >= 120, "{}", files.len());
    let found: Vec<_> = files.iter().map(|(name, bytes)| (name.to_string(), outcome(bytes))).collect();
    compare("photos", &found);
}

#[test]
fn hostile_and_odd_archives_have_the_line_or_the_images_of_the_table() {
    compare("CIFAR archives", &archives::cifar());
}

#[test]
fn hostile_and_odd_shards_have_the_line_or_the_images_of_the_table() {
    compare("tar shards", &archives::shards());
}
