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
    /// Opens a folder of tar shards, of parquet files or else of a folder per class; or a parquet file, or those that match a
    /// pattern.
    pub fn open(path: &Path, split: ValidationSplit) -> Result<Self> {
        if Shards::recognise(path) {
            let Shards { train, validation, split } = Shards::open(path, split)?;
            return Ok(PhotoSets { train, validation, split, left_out: None });
        }
        let named = |line: Option<String>| line.map(|line| format!("{}: {line}", path.display()));
        if is_pattern(path) || ParquetFiles::recognise(path) {
            let files = match is_pattern(path) {
                true => ParquetFiles::open_files(&matches(path)?, path, split)?,
                false => ParquetFiles::open(path, split)?,
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

/// The parquet files that match a pattern.
fn matches(pattern: &Path) -> Result<Vec<PathBuf>> {
    let pattern = pattern.to_string_lossy();
    let found = glob::glob(&pattern).with_context(|| format!("the pattern {pattern}"))?;
    let files = found.collect::<Result<Vec<_>, _>>()?;
    ensure!(!files.is_empty(), "no file matches the pattern {pattern}");
    if let Some(other) = files.iter().find(|file| !ParquetFiles::recognise(file) || file.is_dir()) {
        bail!("{} matches {pattern} and is no parquet file: a pattern is for those only", other.display());
    }
    Ok(files)
}
