//! Batches, made on other threads ahead of the step that needs them.

use crate::augment::Augmentation;
use crate::dataset::{CHANNELS, Dataset, Normalization};
use crate::{Error, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// How a [`Loader`] makes batches.
#[derive(Debug, Clone, Copy)]
pub struct LoaderConfig {
    /// Images a batch; the last of an epoch may have fewer.
    pub batch_size: usize,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
    /// How images are varied.
    pub augmentation: Augmentation,
    /// Of order and augmentation.
    pub seed: u64,
    /// Threads that make batches, at least one.
    pub threads: usize,
}

/// One batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Normalised pixels (N, H, W, 3), the channels-last memory format.
    pub images: Vec<f32>,
    /// Classes (N).
    pub labels: Vec<u32>,
    /// Height and width.
    pub size: (usize, usize),
}

/// Makes the batches of an epoch. Order and augmentation are a function of seed, epoch and index
/// alone, whatever the number of threads.
#[derive(Debug, Clone)]
pub struct Loader {
    dataset: Arc<Dataset>,
    normalization: Normalization,
    config: LoaderConfig,
}

/// Batches each thread may be ahead of the consumer.
const AHEAD: usize = 2;

impl Loader {
    /// A loader over `dataset`.
    ///
    /// # Errors
    /// If the batch size or the number of threads is 0, or there are no images.
    pub fn new(dataset: Arc<Dataset>, normalization: Normalization, config: LoaderConfig) -> Result<Self> {
        if config.batch_size == 0 || config.threads == 0 {
            return Err(Error::Loader("batch size and threads must be at least 1, got 0".into()));
        }
        if dataset.is_empty() {
            return Err(Error::Loader("the data set has no images".into()));
        }
        Ok(Loader { dataset, normalization, config })
    }

    /// The number of batches an epoch has.
    pub fn batches_per_epoch(&self) -> usize {
        self.dataset.len().div_ceil(self.config.batch_size)
    }

    /// The data set behind the batches.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The batches of `epoch`, from batch number `first` on: a resumed run starts in the middle.
    pub fn epoch(&self, epoch: u64, first: usize) -> Batches {
        let order: Arc<[usize]> = self.order(epoch).into();
        let threads = self.config.threads;
        let receivers = (0..threads)
            .map(|thread| {
                let (sender, receiver) = sync_channel(AHEAD);
                let (loader, order) = (self.clone(), Arc::clone(&order));
                // Thread t makes batches t, t + threads, …; the consumer asks them in turn. A thread ends
                // with its batches, or when the consumer is gone and sending fails.
                std::thread::spawn(move || {
                    for number in (first + thread..loader.batches_per_epoch()).step_by(threads) {
                        if sender.send(loader.batch(epoch, number, &order)).is_err() {
                            return;
                        }
                    }
                });
                receiver
            })
            .collect();
        Batches { receivers, next: 0 }
    }

    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.dataset.len()).collect();
        if self.config.shuffle {
            let mut rng = self.rng(epoch, u32::MAX as u64);
            for i in (1..order.len()).rev() {
                order.swap(i, rng.random_range(0..=i));
            }
        }
        order
    }

    /// The random numbers of one image in one epoch; no image has index `u32::MAX`, the order's own.
    fn rng(&self, epoch: u64, index: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed);
        rng.set_stream(epoch << 32 | index);
        rng
    }

    fn batch(&self, epoch: u64, number: usize, order: &[usize]) -> Batch {
        let first = number * self.config.batch_size;
        let indices = &order[first..order.len().min(first + self.config.batch_size)];
        let (height, width) = self.dataset.size();
        let mut images = vec![0.0; indices.len() * height * width * CHANNELS];
        for (&index, out) in indices.iter().zip(images.chunks_exact_mut(height * width * CHANNELS)) {
            let mut rng = self.rng(epoch, index as u64);
            self.config.augmentation.write(&self.dataset, index, &self.normalization, &mut rng, out);
        }
        let labels = indices.iter().map(|&index| self.dataset.label(index)).collect();
        Batch { images, labels, size: (height, width) }
    }
}

/// The batches of an epoch, in order. Dropping it ends the threads behind it.
#[derive(Debug)]
pub struct Batches {
    receivers: Vec<Receiver<Batch>>,
    next: usize,
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let batch = self.receivers[self.next % self.receivers.len()].recv().ok()?;
        self.next += 1;
        Some(batch)
    }
}
