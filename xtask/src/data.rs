//! Data sets by name, and their batches as tensors.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use clap::ValueEnum;
use resnext_data::{Augmentation, Dataset, Loader, LoaderConfig, Splits, cifar, synthetic};
use resnext_train::{Batch, Batches, Data};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// The data sets there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatasetName {
    /// Generated shapes, in ten classes; needs no file
    Synthetic,
    Cifar10,
    Cifar100,
}

/// Of the generated set: the same for every run, whatever its own seed, so that runs compare.
const SYNTHETIC_SEED: u64 = 2016;

impl DatasetName {
    /// Reads or generates the set.
    pub fn open(self, path: Option<&Path>) -> Result<Splits> {
        let path =
            || path.with_context(|| format!("data set {self:?} needs --data with its .tar.gz or folder"));
        Ok(match self {
            DatasetName::Synthetic => synthetic::splits(SYNTHETIC_SEED, 10_000, 2_000),
            DatasetName::Cifar10 => cifar::cifar10(path()?)?,
            DatasetName::Cifar100 => cifar::cifar100(path()?)?,
        })
    }
}

/// A training and a test loader.
pub struct Loaders {
    train: Loader,
    test: Loader,
    device: Device,
}

impl Loaders {
    pub fn new(splits: Splits, batch_size: usize, augment: bool, seed: u64, device: &Device) -> Result<Self> {
        let augmentation = if augment { Augmentation::cifar() } else { Augmentation::default() };
        let config = LoaderConfig { batch_size, shuffle: true, augmentation, seed, threads: 1 };
        let still = LoaderConfig { shuffle: false, augmentation: Augmentation::default(), ..config };
        Ok(Loaders {
            train: Loader::new(Arc::new(splits.train), splits.normalization, config)?,
            test: Loader::new(Arc::new(splits.test), splits.normalization, still)?,
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
    fn batches_per_epoch(&self) -> usize {
        self.train.batches_per_epoch()
    }

    fn train(&self, epoch: usize, first: usize) -> Batches<'_> {
        Box::new(self.train.epoch(epoch as u64, first).map(|batch| self.tensors(batch)))
    }

    fn test(&self) -> Batches<'_> {
        Box::new(self.test.epoch(0, 0).map(|batch| self.tensors(batch)))
    }
}
