//! A share of each class kept for validation.

use crate::error::{Error, Result};
use crate::image_set::ImageSet;
use crate::random_stream::shuffled;

/// The share of a set's images that is kept for validation, if the set has none of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ValidationSplit {
    /// The share of each class's images, above 0 and below 1. At least one image of each class is kept for
    /// validation, and at least one for training.
    pub share: f64,
    /// Chooses the images. The choice depends on nothing else but the order of the class's images.
    pub seed: u64,
}

impl ValidationSplit {
    /// Checks that the share is in range.
    ///
    /// # Errors
    /// [`Error::Loader`] if it is not.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.share > 0.0 && self.share < 1.0 {
            return Ok(());
        }
        Err(Error::Loader(format!("the validation share must be above 0 and below 1, got {}", self.share)))
    }

    /// Images for training and for validation, and whether the latter had to be split off, because there were none.
    ///
    /// # Errors
    /// What is wrong with them, in a clause that follows the name of where they are from: there is one class only, no
    /// training images, too few images of a class to be split, or no images of a class for training or for validation.
    pub(crate) fn complete(
        &self,
        train: ImageSet,
        validation: ImageSet,
    ) -> std::result::Result<(ImageSet, ImageSet, bool), String> {
        let names = train.class_names();
        if names.len() < 2 {
            return Err("has one class only: expected at least two".into());
        }
        if train.is_empty() {
            return Err("has no training images".into());
        }
        if validation.is_empty() {
            let (train, validation) = self.divide(&train).map_err(|class| {
                format!("has fewer than two images of class {class}, which cannot be split")
            })?;
            return Ok((train, validation, true));
        }
        let counts = [train.class_counts(), validation.class_counts()];
        for (part, purpose) in ["training", "validation"].into_iter().enumerate() {
            let lacks = |label: &usize| counts[part][*label] == 0 && counts[1 - part][*label] > 0;
            if let Some(label) = (0..names.len()).find(lacks) {
                return Err(format!(
                    "has no {purpose} images of class {} (label {label}): training and validation need images of the \
                     same classes",
                    names[label]
                ));
            }
        }
        Ok((train, validation, false))
    }

    /// Divides a set into one for training and one for validation.
    ///
    /// # Errors
    /// The name of a class that has fewer than two images.
    pub(crate) fn divide(&self, set: &ImageSet) -> std::result::Result<(ImageSet, ImageSet), String> {
        let mut of_class = vec![Vec::new(); set.class_names().len()];
        (0..set.len()).for_each(|index| of_class[set.label(index) as usize].push(index));
        let mut kept = vec![false; set.len()];
        for (label, images) in of_class.iter().enumerate() {
            if images.len() < 2 {
                return Err(set.class_names()[label].clone());
            }
            let order = shuffled(self.seed, label as u64, images.len());
            let count = ((images.len() as f64 * self.share).round() as usize).clamp(1, images.len() - 1);
            order[..count].iter().for_each(|&i| kept[images[i]] = true);
        }
        let with = |wanted: bool| set.select((0..set.len()).filter(|&index| kept[index] == wanted));
        Ok((with(false), with(true)))
    }
}
