//! The data that a recipe names, opened.

use crate::dataset_arg::DatasetName;
use crate::photo_options::PhotoOptions;
use crate::photo_overrides::PhotoOverrides;
use crate::photo_sets::PhotoSets;
use crate::recipe::Recipe;
use anyhow::{Context, Result, bail, ensure};
use resnext_data::{EvalTransform, Normalization, Splits};

/// A training set and a test set.
pub enum OpenData {
    /// Images of one size in memory.
    Memory(Box<Splits>),
    /// Photos that are decoded when they are needed; and how they are prepared, in evaluation by the transform.
    Photos(Box<PhotoSets>, Box<PhotoOptions>, EvalTransform),
}

impl From<Splits> for OpenData {
    fn from(splits: Splits) -> Self {
        OpenData::Memory(Box::new(splits))
    }
}

impl OpenData {
    /// Opens a recipe's data. `photos` are those of its folder, if they have been listed already.
    ///
    /// # Errors
    /// If it needs a path and there is none, the files there are not what the data set consists of, they are
    /// fewer images than the recipe wants, or they are photos of other classes than those that the recipe's run
    /// was trained on.
    pub fn new(recipe: &Recipe, photos: Option<PhotoSets>) -> Result<Self> {
        let path = recipe.data.as_deref();
        if recipe.dataset != DatasetName::Folder {
            let mut splits = recipe.dataset.open(path)?;
            if let Some(images) = recipe.train_images {
                let all = splits.train.len();
                ensure!(
                    (1..=all).contains(&images),
                    "the training images to take must be from 1 to the {all} of {}, got {images}",
                    recipe.dataset
                );
                splits.train = splits.train.balanced_subset(images);
            }
            return Ok(splits.into());
        }
        ensure!(
            recipe.train_images.is_none(),
            "a number of training images can be chosen for data sets in memory only, not for a folder of photos"
        );
        let path = path.context("data set folder needs --data with the folder of the photos")?;
        let options = recipe.photos.clone().unwrap_or_default();
        let sets = photos.map_or_else(|| PhotoSets::open(path, options.split()), Ok)?;
        let (expected, found) = (&options.classes, sets.train.class_names());
        ensure!(
            expected.is_empty() || expected == found,
            "{} has the classes {}, expected those of the run: {}",
            path.display(),
            found.join(", "),
            expected.join(", ")
        );
        let evaluation = options.evaluation()?;
        Ok(OpenData::Photos(Box::new(sets), Box::new(options), evaluation))
    }

    /// Refuses options that choose validation photos where the data have their own.
    pub fn check_split(&self, overrides: &PhotoOverrides) -> Result<()> {
        if let OpenData::Photos(photos, ..) = self
            && !photos.split
            && let Some(option) = overrides.of_split()
        {
            bail!(
                "{option} chooses photos for validation, but the data have their own: leave it out, or name the folder \
                 of the training photos with --data"
            );
        }
        Ok(())
    }

    /// The class names, indexed by label.
    pub fn class_names(&self) -> &[String] {
        match self {
            OpenData::Memory(splits) => splits.train.class_names(),
            OpenData::Photos(photos, ..) => photos.train.class_names(),
        }
    }

    /// The number of training images.
    pub fn train_len(&self) -> usize {
        match self {
            OpenData::Memory(splits) => splits.train.len(),
            OpenData::Photos(photos, ..) => photos.train.len(),
        }
    }

    /// Height and width of training images, in pixels.
    pub fn size(&self) -> (usize, usize) {
        match self {
            OpenData::Memory(splits) => splits.train.size(),
            OpenData::Photos(_, options, _) => (options.size, options.size),
        }
    }

    /// The normalisation of inputs.
    pub fn normalization(&self) -> Normalization {
        match self {
            OpenData::Memory(splits) => splits.normalization,
            OpenData::Photos(_, _, evaluation) => evaluation.normalization,
        }
    }
}
