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
}

impl PhotoSets {
    /// Opens a folder of tar shards, or else one with a folder per class.
    pub fn open(path: &Path, split: ValidationSplit) -> Result<Self> {
        if Shards::recognise(path) {
            let Shards { train, validation, split } = Shards::open(path, split)?;
            return Ok(PhotoSets { train, validation, split });
        }
        let ImageFolder { train, validation, split } = ImageFolder::open(path, split)?;
        Ok(PhotoSets { train, validation, split })
    }
}
