//! Recipes: all settings of a run, as TOML. Options on the command line override the file.

use crate::class_weights_arg::ClassWeights;
use crate::dataset_arg::DatasetName;
use crate::mix_options::{MixOptions, MixOverrides};
use crate::named_recipes;
use crate::photo_options::PhotoOptions;
use crate::photo_overrides::PhotoOverrides;
use crate::photo_sets::is_pattern;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use resnext_model::{Architecture, Baseline, Config, Form};
use resnext_train::{
    AdamWConfig, Amp, Clip, DecayOf, Freeze, LambConfig, Loss, OptimizerConfig, Schedule, SgdConfig,
    TrainConfig,
};
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
    /// The trained network that the run starts from: whatever `predict --weights` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Train on this many images only, the same number of each class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_images: Option<usize>,
    pub epochs: usize,
    pub batch_size: usize,
    pub lr: f64,
    #[serde(default)]
    pub seed: u64,
    /// Whether training images are padded, randomly cropped and mirrored.
    pub augment: bool,
    #[serde(default)]
    pub label_smoothing: f64,
    /// How much each class counts in the loss: `none`, or `balanced` for the same whatever its number of images.
    #[serde(default, skip_serializing_if = "ClassWeights::is_none")]
    pub class_weights: ClassWeights,
    /// The parameters that weight decay applies to: `all`, or `weights` without norms and biases.
    #[serde(default)]
    pub decay_of: DecayOf,
    /// The factor of the learning rate from each stage to the one before it.
    #[serde(default = "whole")]
    pub layer_decay: f64,
    /// Parts that are not trained, from the stem on.
    #[serde(default, skip_serializing_if = "Freeze::is_empty")]
    pub freeze: Freeze,
    /// Whether batch norms stay as they are.
    #[serde(default)]
    pub freeze_norms: bool,
    /// Stochastic depth: the probability that the last block is left out.
    #[serde(default)]
    pub drop_path: f64,
    /// Epochs without a better test top-1 that end the run; 0 for none.
    #[serde(default)]
    pub early_stopping: usize,
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
    #[serde(default)]
    pub loss: Loss,
    /// A limit on the gradients of a step: `norm` or `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<Clip>,
    /// Mixup and CutMix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<MixOptions>,
    pub schedule: Schedule,
    // The optimizer is the one that has a table; SGD without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sgd: Option<SgdConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adamw: Option<AdamWConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lamb: Option<LambConfig>,
    /// How photos are prepared, for data sets of photos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub photos: Option<PhotoOptions>,
    /// The network, if it is none that has a name; `model` is then what it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Config>,
}

fn one() -> usize {
    1
}

fn whole() -> f64 {
    1.0
}

/// The optimizers by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OptimizerName {
    Sgd,
    Adamw,
    Lamb,
}

/// The schedules by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleName {
    Step,
    MultiStep,
    Cosine,
    Polynomial,
    OneCycle,
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
    /// Archive (.tar.gz) or folder of the data set. Photos need nothing else: a folder with a folder per class, tar shards
    /// or parquet files, or one shard or parquet file, or a pattern of them
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Fine-tune these weights: a run folder, a file, or a repository of the hub. The last layer is new if the
    /// data set has another number of classes
    #[arg(long)]
    pub weights: Option<String>,
    #[command(flatten)]
    pub photos: PhotoOverrides,
    #[command(flatten)]
    pub mix: MixOverrides,
    /// Train on this many images only, the first ones of each class and the same number of each
    #[arg(long)]
    pub train_images: Option<usize>,
    /// Passes over the training set
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Images per batch
    #[arg(long)]
    pub batch_size: Option<usize>,
    /// Peak learning rate
    #[arg(long)]
    pub lr: Option<f64>,
    /// Optimizer
    #[arg(long, value_enum)]
    pub optimizer: Option<OptimizerName>,
    /// Momentum of SGD, from 0 to below 1
    #[arg(long)]
    pub momentum: Option<f64>,
    /// Weight decay of the optimizer
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// The parameters that weight decay applies to: all, or weights (neither batch norms nor biases)
    #[arg(long)]
    pub decay_of: Option<DecayOf>,
    /// Learning-rate schedule
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleName>,
    /// Fraction of the run in which the learning rate rises to its peak, from 0 to 1
    #[arg(long)]
    pub warmup: Option<f64>,
    /// Factor of the learning rate from each stage to the one before it, such as 0.7; the last layer has the
    /// whole rate
    #[arg(long)]
    pub layer_decay: Option<f64>,
    /// Parts that are not trained, from the stem on, such as stem,layer1
    #[arg(long)]
    pub freeze: Option<Freeze>,
    /// Keep the parameters and running statistics of batch norms
    #[arg(long)]
    pub freeze_norms: bool,
    /// Loss: cross-entropy or bce (binary cross-entropy)
    #[arg(long, value_parser = loss)]
    pub loss: Option<Loss>,
    /// Label smoothing, from 0 to 1
    #[arg(long)]
    pub label_smoothing: Option<f64>,
    /// How much each class counts in the loss
    #[arg(long, value_enum)]
    pub class_weights: Option<ClassWeights>,
    /// Limit the gradients of a step: norm=1 (L2 norm of all together) or value=0.5 (each element)
    #[arg(long)]
    pub clip: Option<Clip>,
    /// Stochastic depth: probability that the last block is left out for an image
    #[arg(long)]
    pub drop_path: Option<f64>,
    /// End the run after this many epochs without a better test top-1
    #[arg(long)]
    pub early_stopping: Option<usize>,
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

impl Overrides {
    /// Refuses the data of `of`, a run, a recipe or weights, if they are not where its recipe says and the command line
    /// does not say where they are.
    pub fn check_data_of(&self, recipe: &Recipe, of: Option<&str>) -> Result<()> {
        if let (Some(of), Some(data), None) = (of, &recipe.data, &self.data) {
            ensure!(
                data.exists() || is_pattern(data),
                "the data of {of} were at {}, which no longer exists; pass their new location with --data",
                data.display()
            );
        }
        Ok(())
    }
}

impl Recipe {
    /// Reads a recipe from a TOML file.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// This repository's recipe for a data set.
    pub fn of(dataset: DatasetName) -> Result<Self> {
        Self::named(&dataset.to_string())
    }

    /// This repository's recipe of this name.
    pub fn named(name: &str) -> Result<Self> {
        let text = named_recipes::text(name).with_context(|| {
            let known: Vec<&str> = named_recipes::names().collect();
            format!("{name}: neither a file nor a recipe of this program, which has {}", known.join(", "))
        })?;
        Self::parse(text, name)
    }

    /// The recipe that a user names: a file if it exists, else one of this repository's.
    pub fn open(text: &str) -> Result<Self> {
        let path = Path::new(text);
        if path.is_file() { Self::read(path) } else { Self::named(text) }
    }

    /// Parses TOML; `source` is named in errors.
    fn parse(text: &str, source: &str) -> Result<Self> {
        let recipe: Recipe = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(String::new(), |span| {
                format!(", line {}", 1 + text[..span.start.min(text.len())].matches('\n').count())
            });
            anyhow::anyhow!("{source}{line}: {}", plain(error.message()))
        })?;
        recipe.optimizer().context(source.to_string())?;
        Ok(recipe)
    }

    /// The optimizer whose table the recipe has.
    pub fn optimizer(&self) -> Result<OptimizerConfig> {
        Ok(match (self.sgd, self.adamw, self.lamb) {
            (sgd, None, None) => OptimizerConfig::Sgd(sgd.unwrap_or_default()),
            (None, Some(adamw), None) => OptimizerConfig::AdamW(adamw),
            (None, None, Some(lamb)) => OptimizerConfig::Lamb(lamb),
            _ => bail!("more than one optimizer: keep one of the tables [sgd], [adamw] and [lamb]"),
        })
    }

    /// Replaces settings by those of the command line.
    pub fn apply(&mut self, overrides: &Overrides) -> Result<()> {
        fn set<T: Clone>(field: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                *field = value.clone();
            }
        }
        if let Some(model) = &overrides.model {
            self.model = model.clone();
            self.network = None;
        }
        set(&mut self.form, &overrides.form);
        set(&mut self.dataset, &overrides.dataset);
        set(&mut self.epochs, &overrides.epochs);
        set(&mut self.batch_size, &overrides.batch_size);
        set(&mut self.lr, &overrides.lr);
        set(&mut self.seed, &overrides.seed);
        set(&mut self.accumulate, &overrides.accumulate);
        set(&mut self.ema, &overrides.ema);
        set(&mut self.amp, &overrides.amp);
        set(&mut self.decay_of, &overrides.decay_of);
        set(&mut self.layer_decay, &overrides.layer_decay);
        set(&mut self.freeze, &overrides.freeze);
        set(&mut self.loss, &overrides.loss);
        set(&mut self.label_smoothing, &overrides.label_smoothing);
        set(&mut self.class_weights, &overrides.class_weights);
        set(&mut self.drop_path, &overrides.drop_path);
        set(&mut self.early_stopping, &overrides.early_stopping);
        self.train_images = overrides.train_images.or(self.train_images);
        self.clip = overrides.clip.or(self.clip);
        self.freeze_norms |= overrides.freeze_norms;
        if overrides.weights.is_some() {
            self.weights = overrides.weights.clone();
        }
        overrides.mix.apply(&mut self.mix);
        self.apply_schedule(overrides)?;
        self.apply_optimizer(overrides)?;
        self.grad_checkpoint |= overrides.grad_checkpoint;
        if overrides.data.is_some() {
            self.data = overrides.data.clone();
        }
        if self.dataset == DatasetName::Folder {
            overrides.photos.apply(self.photos.get_or_insert_default());
        }
        Ok(())
    }

    /// Another schedule keeps the warm-up; its other settings are the defaults.
    fn apply_schedule(&mut self, overrides: &Overrides) -> Result<()> {
        let mut table = serde_json::to_value(&self.schedule)?;
        if let Some(name) = overrides.schedule {
            let kind = name.to_possible_value().map(|value| value.get_name().to_string());
            table = serde_json::json!({ "kind": kind, "warmup": table["warmup"] });
        }
        if let Some(warmup) = overrides.warmup {
            table["warmup"] = warmup.into();
        }
        self.schedule = serde_json::from_value(table)?;
        Ok(())
    }

    /// Another optimizer has its default settings.
    fn apply_optimizer(&mut self, overrides: &Overrides) -> Result<()> {
        match overrides.optimizer {
            Some(OptimizerName::Sgd) if self.adamw.is_some() || self.lamb.is_some() => {
                (self.sgd, self.adamw, self.lamb) = (Some(SgdConfig::default()), None, None);
            }
            Some(OptimizerName::Adamw) if self.adamw.is_none() => {
                (self.sgd, self.adamw, self.lamb) = (None, Some(AdamWConfig::default()), None);
            }
            Some(OptimizerName::Lamb) if self.lamb.is_none() => {
                (self.sgd, self.adamw, self.lamb) = (None, None, Some(LambConfig::default()));
            }
            _ => {}
        }
        if self.adamw.is_none() && self.lamb.is_none() {
            self.sgd.get_or_insert_default();
        }
        if let Some(momentum) = overrides.momentum {
            let sgd = self.sgd.as_mut().context("--momentum is for SGD; others have `betas` in a recipe")?;
            sgd.momentum = momentum;
            sgd.nesterov &= momentum > 0.0;
        }
        if let Some(decay) = overrides.weight_decay {
            let decays = [
                self.sgd.as_mut().map(|c| &mut c.weight_decay),
                self.adamw.as_mut().map(|c| &mut c.weight_decay),
                self.lamb.as_mut().map(|c| &mut c.weight_decay),
            ];
            decays.into_iter().flatten().for_each(|own| *own = decay);
        }
        Ok(())
    }

    /// The configuration of a ResNet or ResNeXt, for a data set with this number of classes.
    pub fn network(&self, classes: usize) -> Result<Config> {
        let named = match &self.network {
            Some(own) => own.clone(),
            None => Config::by_name(&self.model)?,
        };
        Ok(Config { form: self.form, classes, zero_init_last: self.zero_init_last, ..named })
    }

    /// The network, a baseline or what [`network`](Self::network) gives, for a data set with this number of classes.
    ///
    /// # Errors
    /// If no network has the name, or a setting is about blocks that it does not have.
    pub fn architecture(&self, classes: usize) -> Result<Architecture> {
        let baseline = Baseline::by_name(&self.model).filter(|_| self.network.is_none());
        let Some(baseline) = baseline else { return Ok(self.network(classes)?.into()) };
        let blocks = "is for ResNets and ResNeXts, whose blocks have it";
        ensure!(self.form == Form::C, "form {} {blocks}: {} has no such blocks", self.form, self.model);
        ensure!(!self.zero_init_last, "zero_init_last {blocks}: {} has no such blocks", self.model);
        Ok(Architecture::Baseline { baseline, classes })
    }

    /// The settings of the training loop, for classes of these numbers of training images.
    pub fn training(&self, class_counts: &[usize]) -> Result<TrainConfig> {
        Ok(TrainConfig {
            epochs: self.epochs,
            lr: self.lr,
            schedule: self.schedule.clone(),
            optimizer: self.optimizer()?,
            decay_of: self.decay_of,
            layer_decay: self.layer_decay,
            freeze: self.freeze.clone(),
            freeze_norms: self.freeze_norms,
            drop_path: self.drop_path,
            loss: self.loss,
            class_weights: self.class_weights.of(class_counts),
            clip: self.clip,
            early_stopping: self.early_stopping,
            label_smoothing: self.label_smoothing,
            accumulate: self.accumulate,
            seed: self.seed,
            ema: self.ema,
            grad_checkpoint: self.grad_checkpoint,
            amp: self.amp,
        })
    }
}

/// The parser's message in one line, with the recipe's terms in place of Rust's types.
fn plain(message: &str) -> String {
    let message = message.trim().replace('\n', " ").replace(" as i128", "");
    match message.strip_suffix("usize").or(message.strip_suffix("u64")) {
        Some(start) => format!("{start}an integer of at least 0"),
        None => message,
    }
}

/// A loss by name. The threshold of binary cross-entropy is the one of timm's recipes.
fn loss(text: &str) -> Result<Loss, String> {
    match text {
        "cross-entropy" => Ok(Loss::CrossEntropy),
        "bce" => Ok(Loss::Bce { threshold: Some(0.2) }),
        _ => Err("expected cross-entropy or bce".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inputs in `fuzz/corpus`, and what is asked of them, are those of the fuzz target.
    #[test]
    fn recipes_that_fuzzing_found_are_written_as_they_were_read_or_refused_in_one_line() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/recipe");
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("recipe.toml");
        let (mut read, mut refused) = (0, 0);
        for entry in std::fs::read_dir(corpus).unwrap() {
            let path = entry.unwrap().path();
            let recipe = match Recipe::read(&path) {
                Ok(recipe) => recipe,
                Err(error) => {
                    let line = format!("{error:#}");
                    assert!(!line.contains('\n'), "{}: {line}", path.display());
                    refused += 1;
                    continue;
                }
            };
            let _ = (recipe.network(10), recipe.training(&[2; 10]));
            if let Some(photos) = &recipe.photos {
                let _ = (photos.evaluation(), photos.training(recipe.augment), photos.split());
            }
            let written = toml::to_string(&recipe).unwrap();
            std::fs::write(&copy, &written).unwrap();
            let again = toml::to_string(&Recipe::read(&copy).unwrap()).unwrap();
            assert_eq!(again, written, "{}", path.display());
            read += 1;
        }
        assert!(read >= 10 && refused >= 100, "{read} read, {refused} refused");
    }
}
