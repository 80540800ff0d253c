//! The batches of a data set as tensors on a device.

use anyhow::Result;
use candle_core::{Device, Tensor};
use resnext_data::{Augmentation, Dataset, Loader, LoaderConfig, Splits};
use resnext_train::{Batch, Batches, Data};
use std::sync::Arc;

/// A loader of training batches, shuffled, and one of test batches, in order and never augmented.
pub struct Loaders {
    train: Loader,
    test: Loader,
    device: Device,
}

impl Loaders {
    pub fn new(splits: Splits, batch_size: usize, augment: bool, seed: u64, device: &Device) -> Result<Self> {
        let augmentation = if augment { Augmentation::cifar() } else { Augmentation::default() };
        let train = LoaderConfig { batch_size, shuffle: true, augmentation, seed, threads: 1 };
        let test = LoaderConfig { shuffle: false, augmentation: Augmentation::default(), ..train };
        Ok(Loaders {
            train: Loader::new(Arc::new(splits.train), splits.normalization, train)?,
            test: Loader::new(Arc::new(splits.test), splits.normalization, test)?,
            device: device.clone(),
        })
    }

    pub fn test_set(&self) -> &Dataset {
        self.test.dataset()
    }

    pub fn train_set(&self) -> &Dataset {
        self.train.dataset()
    }

    fn tensors(&self, batch: resnext_data::Batch) -> resnext_train::Result<Batch> {
        let (n, (h, w)) = (batch.labels.len(), batch.size);
        // The loader's memory is (N, H, W, C); the network sees (N, C, H, W) with those strides.
        let images = Tensor::from_vec(batch.images, (n, h, w, 3), &self.device)?.permute((0, 3, 1, 2))?;
        Ok((images, Tensor::from_vec(batch.labels, n, &self.device)?))
    }
}

impl Data for Loaders {
    fn images_per_epoch(&self) -> usize {
        self.train.dataset().len()
    }

    fn batch_size(&self) -> usize {
        self.train.batch_size()
    }

    fn image_size(&self) -> (usize, usize) {
        self.train.dataset().size()
    }

    fn fingerprint(&self) -> String {
        self.train.dataset().fingerprint()
    }

    fn train(&self, epoch: usize, skip: usize) -> Batches<'_> {
        Box::new(self.train.epoch(epoch as u64, skip).map(|batch| self.tensors(batch)))
    }

    fn test(&self) -> Batches<'_> {
        Box::new(self.test.epoch(0, 0).map(|batch| self.tensors(batch)))
    }
}
