//! The source of batches, which the caller implements.

use crate::error::Result;
use candle_core::Tensor;

/// Images (N, 3, H, W), of type f32, and labels (N), of type u32.
pub type Batch = (Tensor, Tensor);

/// An iterator over batches.
pub type Batches<'a> = Box<dyn Iterator<Item = Result<Batch>> + 'a>;

/// A training set and a test set, in batches.
///
/// An epoch goes through the training images in an order that must depend on nothing but the epoch and
/// settings that [`fingerprint`](Self::fingerprint) represents. Its position is therefore a number of images,
/// and a run can continue with another batch size without seeing an image twice or missing one.
///
/// Where several [`Processes`](crate::distributed::Processes) train together, all sizes are still those of the whole
/// set and of whole batches, but each process's [`train`](Self::train) gives its own part of every batch, and rank r
/// of N has the test batches r, r + N, ….
pub trait Data {
    /// The number of training images per epoch.
    fn images_per_epoch(&self) -> usize;
    /// Training images per batch, at least 1. A batch has fewer only at the end of an epoch, or where the
    /// source leaves out images that it cannot read.
    fn batch_size(&self) -> usize;
    /// Height and width of the training images, in pixels.
    fn image_size(&self) -> (usize, usize);
    /// A line that tells this training set and its order from others, such as the number of images and a
    /// hash. A run continues only on a set with the same line, or with one that has a further part behind a comma:
    /// checkpoints of earlier versions may lack that.
    fn fingerprint(&self) -> String;
    /// Facts with their names beyond [`fingerprint`](Self::fingerprint) that all processes must have in common, such as
    /// hashes of pixels, the test set and the normalisation. They are compared, not saved, so they may cost time.
    /// Without several processes nobody asks.
    fn contents(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
    /// The number of training images of each class, by label; empty if it is not known.
    fn class_counts(&self) -> Vec<usize> {
        Vec::new()
    }
    /// The training batches of `epoch`, from 0, after the first `skip` images of its order. Every call must
    /// give the same images, or a resumed run differs from an uninterrupted one.
    fn train(&self, epoch: usize, skip: usize) -> Batches<'_>;
    /// The batches of the test set.
    fn test(&self) -> Batches<'_>;
    /// The number of training batches per epoch.
    fn batches_per_epoch(&self) -> usize {
        self.images_per_epoch().div_ceil(self.batch_size().max(1))
    }
}
