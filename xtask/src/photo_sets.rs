//! Photos for training and validation, in whichever layout a folder has them.

use anyhow::{Context, Result, bail, ensure};
use resnext_data::{ImageFolder, ImageSet, ParquetFiles, Shards, ValidationSplit};
use std::path::{Path, PathBuf};

/// Photos for training and validation.
pub struct PhotoSets {
    pub train: ImageSet,
    pub validation: ImageSet,
    /// Whether the validation photos were split off the training ones.
    pub split: bool,
    /// Which files are left out, in a line.
    left_out: Option<String>,
}

impl PhotoSets {
    /// Opens a folder of tar shards, of parquet files or else of a folder per class; or a shard or parquet file, or those
    /// that match a pattern.
    pub fn open(path: &Path, split: ValidationSplit) -> Result<Self> {
        let matching = is_pattern(path).then(|| matches(path)).transpose()?;
        let first = matching.as_ref().map_or(path, |files| &files[0]);
        if Shards::recognise(first) {
            let Shards { train, validation, split } = match matching {
                Some(files) => Shards::open_files(&files, path, split)?,
                None => Shards::open(path, split)?,
            };
            return Ok(PhotoSets { train, validation, split, left_out: None });
        }
        let named = |line: Option<String>| line.map(|line| format!("{}: {line}", path.display()));
        if ParquetFiles::recognise(first) {
            let files = match matching {
                Some(files) => ParquetFiles::open_files(&files, path, split)?,
                None => ParquetFiles::open(path, split)?,
            };
            let left_out = named(files.left_out_line());
            let ParquetFiles { train, validation, split, .. } = files;
            return Ok(PhotoSets { train, validation, split, left_out });
        }
        let folder = ImageFolder::open(path, split)?;
        let left_out = named(folder.left_out_line());
        let ImageFolder { train, validation, split, .. } = folder;
        Ok(PhotoSets { train, validation, split, left_out })
    }

    /// Photos for evaluation alone: the same ones stand in for those of training.
    pub fn for_evaluation(photos: ImageSet) -> Self {
        PhotoSets { train: photos.clone(), validation: photos, split: false, left_out: None }
    }

    /// Prints what is left out to standard error: once it is clear that the photos can be used.
    pub fn print_left_out(&self) {
        self.left_out.iter().for_each(|line| eprintln!("{line}"));
    }
}

/// Whether a path is a pattern of file names instead of a file or folder.
pub fn is_pattern(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.contains(['*', '?', '['])) && !path.exists()
}

/// The tar shards, or else the parquet files, that match a pattern: at least one.
fn matches(pattern: &Path) -> Result<Vec<PathBuf>> {
    let pattern = pattern.to_string_lossy();
    let found = glob::glob(&pattern).with_context(|| format!("the pattern {pattern}"))?;
    let files = found.collect::<Result<Vec<_>, _>>()?;
    ensure!(!files.is_empty(), "no file matches the pattern {pattern}");
    let shards = Shards::recognise(&files[0]);
    let fits = |file: &Path| {
        file.is_file() && if shards { Shards::recognise(file) } else { ParquetFiles::recognise(file) }
    };
    if let Some(other) = files.iter().find(|file| !fits(file)) {
        let expected = if shards { "tar shard like the first one" } else { "tar shard or parquet file" };
        bail!("{} matches {pattern} and is no {expected}", other.display());
    }
    Ok(files)
}
