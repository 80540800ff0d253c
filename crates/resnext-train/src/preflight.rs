//! Checks before the first step of what would otherwise end the run hours later, or change it silently.

use crate::checkpoint::Progress;
use crate::data::Data;
use crate::error::{Error, Result};
use resnext_model::Architecture;

/// Checks that the run can continue from `progress` on `data`, and that none of its batches will leave batch
/// norm a single value per channel. `norms` is whether batch norms of the last stage are trained, and `processes` the
/// number of parts of each batch.
///
/// # Errors
/// [`Error::OtherData`] if the run was on another training set; [`Error::Data`] if the set is empty, the epoch
/// is shorter than the position in it, or images or a batch are too small.
pub(crate) fn check(
    data: &impl Data,
    progress: &Progress,
    model: &Architecture,
    norms: bool,
    processes: usize,
) -> Result<()> {
    let (images, batch_size) = (data.images_per_epoch(), data.batch_size());
    if images == 0 || batch_size == 0 {
        let message = format!("{images} training images in batches of {batch_size}: both must be at least 1");
        return Err(Error::Data(message.into()));
    }
    if let Some(saved) = &progress.data {
        let got = data.fingerprint();
        let is_older_form = || got.rsplit_once(", ").is_some_and(|(start, _)| start == saved);
        if *saved != got && !is_older_form() {
            return Err(Error::OtherData { saved: saved.clone(), got });
        }
    }
    if progress.images > images {
        let message = format!(
            "the checkpoint is after image {} of an epoch, but the training set has {images} images",
            progress.images
        );
        return Err(Error::Data(message.into()));
    }
    let left = (images - progress.images) % batch_size;
    if let Some(few) =
        [batch_size, images % batch_size, left].into_iter().find(|n| (1..processes).contains(n))
    {
        let message = format!(
            "{processes} processes cannot share a batch of {few} of {images} images in batches of {batch_size}: \
             choose another batch size, or fewer processes"
        );
        return Err(Error::Data(message.into()));
    }
    let (height, width) = data.image_size();
    let pixels = model.smallest_map(height, width);
    if pixels == 0 {
        let message = format!("images of {height}×{width} are too small for the network: choose larger ones");
        return Err(Error::Data(message.into()));
    }
    if !norms || pixels > 1 {
        return Ok(());
    }
    let which = |rest: usize| match (batch_size / processes, rest % batch_size / processes) {
        (1, _) if processes > 1 => {
            Some(format!("{processes} processes share batches of {batch_size} images"))
        }
        (_, 1) if processes > 1 => Some(format!(
            "{processes} processes share a last batch of {} of {images} images",
            rest % batch_size
        )),
        (1, _) => Some("every batch has 1 image".to_string()),
        (_, 1) => Some(format!("the last of {images} images is alone in its batch of {batch_size}")),
        _ => None,
    };
    match which(images).or_else(|| which(images - progress.images)) {
        None => Ok(()),
        Some(which) => Err(Error::Data(
            format!(
                "{which}, and of images of {height}×{width} the last stage's map is one pixel: batch norm cannot \
                 be trained on a single value per channel; choose another batch size, or larger images"
            )
            .into(),
        )),
    }
}
