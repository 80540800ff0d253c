//! The source of batches, which the caller implements.

use crate::error::Result;
use candle_core::Tensor;

/// Images (N, 3, H, W), of type f32, and labels (N), of type u32.
pub type Batch = (Tensor, Tensor);

/// An iterator over batches.
pub type Batches<'a> = Box<dyn Iterator<Item = Result<Batch>> + 'a>;

/// A training set and a test set, in batches.
pub trait Data {
    /// The number of training batches per epoch.
    fn batches_per_epoch(&self) -> usize;
    /// The training batches of `epoch`, starting with number `first`; both count from 0. Every call must give
    /// the same batches, or a resumed run differs from an uninterrupted one.
    fn train(&self, epoch: usize, first: usize) -> Batches<'_>;
    /// The batches of the test set.
    fn test(&self) -> Batches<'_>;
}
