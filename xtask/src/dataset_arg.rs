//! `--dataset`: data sets by name.

use crate::photo_sets::is_pattern;
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use resnext_data::{ParquetFiles, Shards, Splits, cifar, synthetic};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatasetName {
    /// Generated shapes in ten classes, which need no file
    Synthetic,
    Cifar10,
    Cifar100,
    /// Photos in a folder per class, in tar shards or in parquet files
    Folder,
}

/// The seed of the generated set. It is the same for every run, whatever the run's own seed, so that runs can
/// be compared.
const SYNTHETIC_SEED: u64 = 2016;

impl DatasetName {
    /// The set at `path`, which nobody has named: tar shards, parquet files and a folder without CIFAR's files have photos.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn of_path(path: &Path) -> Result<Self> {
        let packed = path.is_file() && (Shards::recognise(path) || ParquetFiles::recognise(path));
        if is_pattern(path) || packed || path.is_dir() && !cifar::recognise(path) {
            return Ok(DatasetName::Folder);
        }
        ensure!(path.exists(), "{}: no such file or folder", path.display());
        bail!("{} is not a folder of photos: name its data set with --dataset", path.display())
    }

    /// Reads or generates a set of images of one size.
    ///
    /// # Errors
    /// If the set needs a `path` and there is none, or the files there are not the set's.
    pub fn open(self, path: Option<&Path>) -> Result<Splits> {
        let path = || {
            path.with_context(|| {
                format!("data set {self} needs --data with the path of its .tar.gz or folder")
            })
        };
        Ok(match self {
            DatasetName::Synthetic => synthetic::splits(SYNTHETIC_SEED, 10_000, 2_000),
            DatasetName::Cifar10 => cifar::cifar10(path()?)?,
            DatasetName::Cifar100 => cifar::cifar100(path()?)?,
            DatasetName::Folder => bail!("photos have no common size"),
        })
    }

    /// What to add to the numbers of training and test images if the data set should have others. With `whole`, training
    /// is on all of its images.
    pub fn lacking(self, whole: bool, train: usize, test: usize) -> &'static str {
        match self {
            DatasetName::Cifar10 | DatasetName::Cifar100 if whole && train != 50_000 || test != 10_000 => {
                "; the official archive has 50000 and 10000"
            }
            _ => "",
        }
    }
}

/// As on the command line.
impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            DatasetName::Synthetic => "synthetic",
            DatasetName::Cifar10 => "cifar10",
            DatasetName::Cifar100 => "cifar100",
            DatasetName::Folder => "folder",
        })
    }
}
