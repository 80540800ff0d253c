//! Batch norm over a batch that several processes share.
//!
//! Forward, a channel's mean and variance are those of all processes' images; backward, so are the two sums that its
//! gradient needs. Both are sums over N·H·W, so each process adds up its own part by the usual kernels, and the
//! parts are added between the kernels' two passes.

use crate::error::{Error, Result};
use std::cell::RefCell;
use std::sync::Arc;

/// Adds numbers up over the processes that share a batch.
pub trait BatchSums: Send + Sync {
    /// Replaces `values` by their sums over all processes, which are the same numbers in each.
    ///
    /// # Errors
    /// If a process does not answer.
    fn sum(&self, values: &mut [f64]) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;
    /// The weight, above 0, of this process's loss in that of the whole batch: 1/N where N processes have parts of
    /// equal size.
    fn weight(&self) -> f64;
}

thread_local! {
    static SUMS: RefCell<Option<Arc<dyn BatchSums>>> = const { RefCell::new(None) };
}

/// Runs `f`, in which batch norms in training use the statistics of all processes' parts of the batch, added up by
/// `sums`. Every process must run the same operations. This holds for the CPU's kernels, on the current thread.
pub fn with_batch_sums<T>(sums: Arc<dyn BatchSums>, f: impl FnOnce() -> T) -> T {
    /// Restores what was there, also when `f` panics.
    struct Restore(Option<Arc<dyn BatchSums>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SUMS.set(self.0.take());
        }
    }
    let _restore = Restore(SUMS.replace(Some(sums)));
    f()
}

/// The mean and biased variance of each channel over `count` values.
pub(crate) struct BatchStatistics {
    pub(crate) mean: Vec<f64>,
    pub(crate) variance: Vec<f64>,
    pub(crate) count: usize,
}

impl BatchStatistics {
    /// The statistics over all processes' parts of the batch; unchanged outside [`with_batch_sums`].
    pub(crate) fn of_all_processes(self) -> Result<Self> {
        let Some(sums) = SUMS.with_borrow(Clone::clone) else { return Ok(self) };
        let (channels, count) = (self.mean.len(), self.count as f64);
        // Per channel the sum and the sum of squares. In f64, a mean of a thousand standard deviations leaves ten
        // digits of the variance.
        let mut values: Vec<f64> = self.mean.iter().map(|mean| count * mean).collect();
        values.extend(self.mean.iter().zip(&self.variance).map(|(mean, var)| count * (var + mean * mean)));
        values.push(count);
        sums.sum(&mut values).map_err(Error::BatchSums)?;
        let count = values[2 * channels];
        let mean: Vec<f64> = values[..channels].iter().map(|sum| sum / count).collect();
        let squares = values[channels..2 * channels].iter();
        let variance = squares.zip(&mean).map(|(sum, mean)| (sum / count - mean * mean).max(0.0)).collect();
        Ok(BatchStatistics { mean, variance, count: count as usize })
    }
}

/// The sums Σ g and Σ g·(x - mean) per channel over all processes' parts of the batch, each g being the gradient of
/// its own process's loss; scaled so that they fit this process's g. They are `own` outside [`with_batch_sums`].
pub(crate) fn gradient_sums_of_all_processes(own: [&[f64]; 2]) -> Result<[Vec<f64>; 2]> {
    let Some(sums) = SUMS.with_borrow(Clone::clone) else { return Ok(own.map(<[f64]>::to_vec)) };
    let (channels, weight) = (own[0].len(), sums.weight());
    let mut values: Vec<f64> = own.iter().flat_map(|sums| sums.iter()).map(|sum| weight * sum).collect();
    sums.sum(&mut values).map_err(Error::BatchSums)?;
    values.iter_mut().for_each(|sum| *sum /= weight);
    let of_products = values.split_off(channels);
    Ok([values, of_products])
}
