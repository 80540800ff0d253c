//! Training batches, prepared by worker threads ahead of the step that needs them.

use crate::augment::Augmentation;
use crate::dataset::{CHANNELS, Dataset, Normalization};
use crate::error::{Error, Result};
use crate::random_stream::{of_image, shuffled};
use crate::share::{BatchPart, Share};
use crate::transform::mix::{Mix, Mixed, Position};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// The settings of a [`Loader`].
#[derive(Debug, Clone, Copy)]
pub struct LoaderConfig {
    /// Images per batch, at least 1; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// Whether the images are shuffled anew in each epoch.
    pub shuffle: bool,
    /// Random changes to each image.
    pub augmentation: Augmentation,
    /// How batches are mixed.
    pub mix: Option<Mix>,
    /// The seed of the order and of the augmentation.
    pub seed: u64,
    /// Worker threads, at least 1. Their number does not change the batches.
    pub threads: usize,
}

/// One batch of images and labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Normalised pixels, (N, H, W, 3): the channels-last memory order.
    pub images: Vec<f32>,
    /// Class labels, (N).
    pub labels: Vec<u32>,
    /// Height and width of the images, in pixels.
    pub size: (usize, usize),
    /// The second label of each image, if the images were mixed.
    pub mixed: Option<Mixed>,
}

impl Batch {
    /// Targets (N, `classes`), if the images were mixed: each row has the shares of the image's two labels.
    pub fn targets(&self, classes: usize) -> Option<Vec<f32>> {
        self.mixed.as_ref().map(|mixed| mixed.targets(&self.labels, classes))
    }
}

/// Makes the batches of each epoch. Order and augmentation depend only on the seed, the epoch and the image's
/// index, not on the number of threads, so that a resumed run sees the same batches.
#[derive(Debug, Clone)]
pub struct Loader {
    dataset: Arc<Dataset>,
    normalization: Normalization,
    config: LoaderConfig,
    share: Share,
}

/// Batches that each worker may prepare ahead of the consumer.
const AHEAD: usize = 2;

impl Loader {
    /// Creates a loader over `dataset`.
    ///
    /// # Errors
    /// If the batch size or the number of threads is 0, the data set is empty, or a setting of mixing is out of
    /// range.
    pub fn new(dataset: Arc<Dataset>, normalization: Normalization, config: LoaderConfig) -> Result<Self> {
        for (name, value) in [("batch size", config.batch_size), ("threads", config.threads)] {
            if value == 0 {
                return Err(Error::Loader(format!("{name} must be at least 1, got 0")));
            }
        }
        if dataset.is_empty() {
            return Err(Error::Loader("the data set has no images".into()));
        }
        config.mix.map_or(Ok(()), |mix| mix.validate())?;
        Ok(Loader { dataset, normalization, config, share: Share::default() })
    }

    /// The same loader, of a part of its batches.
    pub fn with_share(self, share: Share) -> Self {
        Loader { share, ..self }
    }

    /// The number of batches per epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.dataset.len().div_ceil(self.config.batch_size)
    }

    /// The largest number of images in a batch.
    pub fn batch_size(&self) -> usize {
        self.config.batch_size
    }

    /// The data set that the batches are drawn from.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Mean and standard deviation of the pixels, as the batches are normalised.
    pub fn normalization(&self) -> &Normalization {
        &self.normalization
    }

    /// The batches of `epoch` after the first `skip` images of its order, where a resumed run continues. The
    /// order does not depend on the batch size, so that a run may continue with another one.
    pub fn epoch(&self, epoch: u64, skip: usize) -> Batches {
        let order: Arc<[usize]> = self.order(epoch).into();
        let parts: Arc<[BatchPart]> = self.share.batches(skip..order.len(), self.config.batch_size).into();
        let threads = self.config.threads;
        let receivers = (0..threads)
            .map(|thread| {
                let (sender, receiver) = sync_channel(AHEAD);
                let (loader, order, parts) = (self.clone(), Arc::clone(&order), Arc::clone(&parts));
                // Thread t makes batches t, t + threads, …, and the consumer receives from the threads in
                // turn. A thread ends after its last batch, or when the consumer is dropped and sending
                // fails.
                std::thread::spawn(move || {
                    for part in parts.iter().skip(thread).step_by(threads) {
                        if sender.send(loader.batch(epoch, part, &order)).is_err() {
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
        match self.config.shuffle {
            true => shuffled(self.config.seed, epoch, self.dataset.len()),
            false => (0..self.dataset.len()).collect(),
        }
    }

    /// The images at these positions of an epoch's order.
    fn batch(&self, epoch: u64, part: &BatchPart, order: &[usize]) -> Batch {
        let indices = &order[part.own.clone()];
        let (height, width) = self.dataset.size();
        let mut images = vec![0.0; indices.len() * height * width * CHANNELS];
        for (&index, out) in indices.iter().zip(images.chunks_exact_mut(height * width * CHANNELS)) {
            let mut rng = of_image(self.config.seed, epoch, index as u64);
            self.config.augmentation.write(&self.dataset, index, &self.normalization, &mut rng, out);
        }
        let labels: Vec<u32> = indices.iter().map(|&index| self.dataset.label(index)).collect();
        let at = Position { seed: self.config.seed, epoch, batch: part.batch.clone() };
        let mixed = self.config.mix.and_then(|mix| mix.apply(&mut images, &labels, (height, width), at));
        Batch { images, labels, size: (height, width), mixed }
    }
}

/// An iterator over an epoch's batches, in order. Dropping it ends the worker threads.
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
