//! Recipes: all settings of a run, as TOML. Options on the command line override the file.

use crate::dataset_arg::DatasetName;
use anyhow::{Context, Result};
use clap::Args;
use resnext_model::{Config, Form};
use resnext_train::{Amp, Schedule, SgdConfig, TrainConfig};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A run's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub model: String,
    #[serde(default)]
    pub form: Form,
    pub dataset: DatasetName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    pub epochs: usize,
    pub batch_size: usize,
    pub lr: f64,
    #[serde(default)]
    pub seed: u64,
    /// Whether training images are padded, randomly cropped and mirrored.
    pub augment: bool,
    #[serde(default)]
    pub label_smoothing: f64,
    #[serde(default = "one")]
    pub accumulate: usize,
    #[serde(default)]
    pub zero_init_last: bool,
    /// The decay per step of the weights' exponential moving average, which is evaluated instead of the
    /// weights; 0 turns it off.
    #[serde(default)]
    pub ema: f64,
    #[serde(default)]
    pub grad_checkpoint: bool,
    /// Mixed precision: `off`, `bf16` or, on CUDA, `tf32`.
    #[serde(default)]
    pub amp: Amp,
    pub schedule: Schedule,
    #[serde(default)]
    pub sgd: SgdConfig,
}

fn one() -> usize {
    1
}

/// The settings of a recipe that the command line can override.
#[derive(Args, Debug, Default)]
pub struct Overrides {
    /// Network, such as resnext20_8x4d or resnext50_32x4d
    #[arg(long)]
    pub model: Option<String>,
    /// Form of the blocks (figure 3 of the paper): a, b or c
    #[arg(long)]
    pub form: Option<Form>,
    /// Data set
    #[arg(long)]
    pub dataset: Option<DatasetName>,
    /// Archive (.tar.gz) or folder of the data set
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Passes over the training set
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Images per batch
    #[arg(long)]
    pub batch_size: Option<usize>,
    /// Peak learning rate
    #[arg(long)]
    pub lr: Option<f64>,
    /// Seed of the initial weights, the order of images and their augmentation
    #[arg(long)]
    pub seed: Option<u64>,
    /// Number of batches whose gradients are averaged for one optimizer step
    #[arg(long)]
    pub accumulate: Option<usize>,
    /// Evaluate an exponential moving average of the weights with this decay per step, such as 0.998
    #[arg(long)]
    pub ema: Option<f64>,
    /// Save memory at the cost of time: recompute activations inside blocks in the backward pass (CPU only)
    #[arg(long)]
    pub grad_checkpoint: bool,
    /// Mixed precision: bf16 (convolutions and feature maps in bf16, weights in f32), tf32 (CUDA only: f32
    /// with factors rounded to TF32) or off
    #[arg(long)]
    pub amp: Option<Amp>,
}

impl Recipe {
    /// Reads a recipe from a TOML file.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).map_err(|error| {
            anyhow::anyhow!("{}: {}", path.display(), error.to_string().trim().replace('\n', " "))
        })
    }

    /// This repository's recipe for a data set.
    pub fn of(dataset: DatasetName) -> Result<Self> {
        let text = match dataset {
            DatasetName::Synthetic => include_str!("../../recipes/synthetic.toml"),
            DatasetName::Cifar10 => include_str!("../../recipes/cifar10.toml"),
            DatasetName::Cifar100 => include_str!("../../recipes/cifar100.toml"),
        };
        Ok(toml::from_str(text)?)
    }

    /// Replaces settings by those of the command line.
    pub fn apply(&mut self, overrides: &Overrides) {
        fn set<T: Clone>(field: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                *field = value.clone();
            }
        }
        set(&mut self.model, &overrides.model);
        set(&mut self.form, &overrides.form);
        set(&mut self.dataset, &overrides.dataset);
        set(&mut self.epochs, &overrides.epochs);
        set(&mut self.batch_size, &overrides.batch_size);
        set(&mut self.lr, &overrides.lr);
        set(&mut self.seed, &overrides.seed);
        set(&mut self.accumulate, &overrides.accumulate);
        set(&mut self.ema, &overrides.ema);
        set(&mut self.amp, &overrides.amp);
        self.grad_checkpoint |= overrides.grad_checkpoint;
        if overrides.data.is_some() {
            self.data = overrides.data.clone();
        }
    }

    /// The network's configuration, for a data set with this number of classes.
    pub fn network(&self, classes: usize) -> Result<Config> {
        let named = Config::by_name(&self.model)?;
        Ok(Config { form: self.form, classes, zero_init_last: self.zero_init_last, ..named })
    }

    /// The settings of the training loop.
    pub fn training(&self) -> TrainConfig {
        TrainConfig {
            epochs: self.epochs,
            lr: self.lr,
            schedule: self.schedule.clone(),
            sgd: self.sgd,
            label_smoothing: self.label_smoothing,
            accumulate: self.accumulate,
            seed: self.seed,
            ema: self.ema,
            grad_checkpoint: self.grad_checkpoint,
            amp: self.amp,
        }
    }
}
