//! The parquet files of a data set, and what each is for, by its name.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The parquet files of a data set.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// For training.
    pub train: Vec<PathBuf>,
    /// For validation.
    pub validation: Vec<PathBuf>,
    /// Those of a test set beside files for validation.
    pub left_out: Vec<PathBuf>,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Train,
    Validation,
    Test,
}

/// The first words of names, by which the hub tells parts from each other.
const WORDS: [(&str, Part); 9] = [
    ("train", Part::Train),
    ("training", Part::Train),
    ("val", Part::Validation),
    ("valid", Part::Validation),
    ("validation", Part::Validation),
    ("dev", Part::Validation),
    ("test", Part::Test),
    ("testing", Part::Test),
    ("eval", Part::Test),
];

/// Folders inside of a data set's folder that hold its files, if the latter has none itself.
const INNER: [&str; 2] = ["data", "default"];

/// A file that describes photos of a folder, which has no photos itself.
const DESCRIPTION: &str = "metadata.parquet";

/// Whether a file's name ends as that of a parquet file.
pub fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"))
}

/// The parquet files in a folder and in those of its folders that are named after a part, or else in its folder `data` or
/// `default`, sorted by name.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be read.
pub fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    for folder in std::iter::once(folder.to_path_buf()).chain(INNER.map(|inner| folder.join(inner))) {
        if !folder.is_dir() {
            continue;
        }
        let entries = entries(&folder)?;
        let mut files: Vec<PathBuf> = entries.iter().filter(|path| is_file(path)).cloned().collect();
        for inner in entries.iter().filter(|path| path.is_dir() && part(path).is_some()) {
            files.extend(self::entries(inner)?.into_iter().filter(|path| is_file(path)));
        }
        if !files.is_empty() {
            return Ok(files);
        }
    }
    Ok(Vec::new())
}

/// Divides files by their names: those for training, for validation and for tests begin with such a word, or are in a folder
/// whose name does. Files for tests are for validation if no others are. Without such words all are for training.
///
/// # Errors
/// The first file without such a word, if others have one.
pub fn divided(files: &[PathBuf]) -> std::result::Result<Found, PathBuf> {
    let part_of = |file: &PathBuf| part(file).or_else(|| file.parent().and_then(part));
    let parts: Vec<Option<Part>> = files.iter().map(part_of).collect();
    if parts.iter().all(Option::is_none) {
        return Ok(Found { train: files.to_vec(), ..Found::default() });
    }
    let of = |wanted: Part| -> Vec<PathBuf> {
        files
            .iter()
            .zip(&parts)
            .filter(|(_, part)| **part == Some(wanted))
            .map(|(file, _)| file.clone())
            .collect()
    };
    if let Some(unknown) = parts.iter().position(Option::is_none) {
        return Err(files[unknown].clone());
    }
    let (train, validation, test) = (of(Part::Train), of(Part::Validation), of(Part::Test));
    Ok(match validation.is_empty() {
        true => Found { train, validation: test, left_out: Vec::new() },
        false => Found { train, validation, left_out: test },
    })
}

/// What a file or folder is for by the first word of its name.
fn part(path: &Path) -> Option<Part> {
    let name = path.file_stem()?.to_string_lossy().to_lowercase();
    let word = name.split(|c: char| !c.is_alphabetic()).next()?;
    WORDS.iter().find(|(own, _)| *own == word).map(|(_, part)| *part)
}

fn is_file(path: &Path) -> bool {
    is_parquet(path) && path.is_file() && path.file_name().is_none_or(|name| name != DESCRIPTION)
}

/// A folder's entries, sorted, without those whose names begin with a dot.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::Io { path: folder.to_path_buf(), source };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            entries.push(entry.path());
        }
    }
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divide(files: &[&str]) -> std::result::Result<[Vec<String>; 3], PathBuf> {
        let found = divided(&files.iter().map(PathBuf::from).collect::<Vec<_>>())?;
        let texts = |paths: Vec<PathBuf>| paths.iter().map(|path| path.display().to_string()).collect();
        Ok([texts(found.train), texts(found.validation), texts(found.left_out)])
    }

    #[test]
    fn names_say_what_files_are_for() {
        let hub = [
            "data/test-00000-of-00001.parquet",
            "data/train-00000-of-00002.parquet",
            "data/Validation_1.parquet",
        ];
        assert_eq!(divide(&hub).unwrap(), [[hub[1]], [hub[2]], [hub[0]]]);
        assert_eq!(divide(&hub[..2]).unwrap(), [vec![hub[1]], vec![hub[0]], vec![]]);
        let folders = ["default/train/0000.parquet", "default/test/0000.parquet"];
        assert_eq!(divide(&folders).unwrap(), [vec![folders[0]], vec![folders[1]], vec![]]);
        // Words are whole: trains and testament are none.
        let plain = ["trains.parquet", "testament.parquet", "0000.parquet"];
        assert_eq!(divide(&plain).unwrap(), [plain.to_vec(), vec![], vec![]]);
        assert_eq!(divide(&["train.parquet", "more.parquet"]).unwrap_err(), Path::new("more.parquet"));
    }
}
