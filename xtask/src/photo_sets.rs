//! Photos for training and validation, in whichever layout a folder has them.

use anyhow::Result;
use resnext_data::{ImageFolder, ImageSet, Shards, ValidationSplit};
use std::path::Path;

/// Photos for training and validation.
pub struct PhotoSets {
    pub train: ImageSet,
    pub validation: ImageSet,
    /// Whether the validation photos were split off the training ones.
    pub split: bool,
    /// Which files of the classes' folders are left out, in a line.
    left_out: Option<String>,
}

impl PhotoSets {
    /// Opens a folder of tar shards, or else one with a folder per class.
    pub fn open(path: &Path, split: ValidationSplit) -> Result<Self> {
        if Shards::recognise(path) {
            let Shards { train, validation, split } = Shards::open(path, split)?;
            return Ok(PhotoSets { train, validation, split, left_out: None });
        }
        let folder = ImageFolder::open(path, split)?;
        let left_out = folder.left_out_line().map(|line| format!("{}: {line}", path.display()));
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
