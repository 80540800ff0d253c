//! Weights in several safetensors files, with the index that names the file of each tensor.

use super::file::{Contents, Entry, FileBytes};
use super::format;
use crate::error::json_problem;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The most bytes of an index. It has a line per tensor.
const INDEX_LIMIT: u64 = 64 << 20;
/// The most files of one set of weights.
const FILES_LIMIT: usize = 1000;

/// An index, as other programs write it.
#[derive(serde::Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

/// Whether a path is that of an index, by its name.
pub(super) fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".index.json"))
}

/// Refuses a file whose name says that it is one of several.
///
/// # Errors
/// A text that says what would be right.
pub(super) fn check_alone(path: &Path) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match place(&name) {
        Some((stem, part, of, ending)) if of > 1 => Err(format!(
            "one of {of} files of weights, number {part}: expected their folder, or the index \
             {stem}.{ending}.index.json"
        )),
        _ => Ok(()),
    }
}

/// The first file by name in a folder that its name says is one of several.
pub(crate) fn some_shard(folder: &Path) -> Option<String> {
    let entries =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    entries.filter(|name| place(name).is_some_and(|(_, _, of, _)| of > 1)).min()
}

/// The parts of a name such as `model-00001-of-00002.safetensors`: `model`, 1, 2 and the ending.
fn place(name: &str) -> Option<(&str, usize, usize, &str)> {
    let (rest, ending) = name.rsplit_once('.')?;
    let (rest, of) = rest.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    Some((stem, part.parse().ok()?, of.parse().ok()?, ending))
}

/// The names of the files that the index at `path` mentions; each is a plain name in the index's folder.
///
/// # Errors
/// A text that says what is wrong with the index.
#[cfg(feature = "hub")]
pub(crate) fn shards(path: &Path) -> Result<Vec<String>, String> {
    let files: BTreeSet<String> = read(path)?.weight_map.into_values().collect();
    Ok(files.into_iter().collect())
}

fn read(path: &Path) -> Result<Index, String> {
    let mut file = FileBytes::open(path)?;
    if file.len > INDEX_LIMIT {
        return Err(format!("an index of {} bytes, expected at most {INDEX_LIMIT}", file.len));
    }
    let len = file.len as usize;
    let index: Index = serde_json::from_slice(&file.read(0, len)?)
        .map_err(|e| format!("not an index of weights: {}", json_problem(&e)))?;
    let files: BTreeSet<&String> = index.weight_map.values().collect();
    // The index comes from elsewhere: it must not make this program read files of other folders.
    let is_plain =
        |file: &str| !file.starts_with('.') && !file.contains(['/', '\\', ':', '\0']) && !file.is_empty();
    if let Some(file) = files.iter().find(|file| !is_plain(file) || is_index(Path::new(file))) {
        return Err(format!("expected the names of files beside it, got {}", file.escape_debug()));
    }
    if files.is_empty() || files.len() > FILES_LIMIT {
        return Err(format!("it names {} files, expected from 1 to {FILES_LIMIT}", files.len()));
    }
    Ok(index)
}

/// Opens all files that the index at `path` mentions.
///
/// # Errors
/// A text that names the file with which something is wrong.
pub(super) fn open(path: &Path) -> Result<(Vec<FileBytes>, Contents), String> {
    let index = read(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let (mut files, mut whole) = (Vec::new(), Contents::default());
    let mut wanted = BTreeMap::<&str, Vec<&String>>::new();
    for (name, file) in &index.weight_map {
        wanted.entry(file).or_default().push(name);
    }
    for (shard, names) in wanted {
        let failed = |reason: String| format!("{}: {reason}", shard.escape_debug());
        let mut file = FileBytes::open(&folder.join(shard)).map_err(failed)?;
        let Contents { mut entries, metadata, foreign, notes } =
            format::contents(&mut file).map_err(failed)?;
        for name in names {
            let entry = entries.remove(name).ok_or_else(|| {
                failed(format!("no {}, which the index says is there", name.escape_debug()))
            })?;
            let entry = entry.map(|entry| Entry { file: files.len(), ..entry });
            whole.entries.insert(name.clone(), entry);
        }
        if let Some(extra) = entries.into_keys().next() {
            return Err(failed(format!("it has {}, which the index does not know", extra.escape_debug())));
        }
        whole.metadata.extend(metadata);
        whole.foreign = whole.foreign.or(foreign);
        whole.notes.extend(notes.into_iter().map(failed));
        files.push(file);
    }
    Ok((files, whole))
}
