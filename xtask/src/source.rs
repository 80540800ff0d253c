//! Trained networks by what a user types: a run, a file, a folder, a repository of the hub.

use crate::recipe::Recipe;
use crate::run_folder::BEST;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use resnext_data::{EvalTransform, Interpolation, Normalization, imagenet};
use resnext_model::hub::{Hub, RepoId};
use resnext_model::{Preprocessing, Pretrained, Weights};
use resnext_train::checkpoint::recipe_of;
use std::path::Path;
use std::sync::Mutex;

/// A trained network, ready to be used on photos.
pub struct Source {
    pub pretrained: Pretrained,
    pub transform: EvalTransform,
    /// Names by class, where they are known.
    labels: Option<Vec<String>>,
}

impl Source {
    /// Opens what `text` names, and finds out how photos are prepared for it.
    pub fn open(text: &str) -> Result<Self> {
        let pretrained = pretrained(text)?;
        let preprocessing = &pretrained.preprocessing;
        let mut normalization = Normalization { mean: preprocessing.mean, std: preprocessing.std };
        let mut labels = pretrained.labels.clone();
        let imagenet = imagenet::class_names();
        if labels.is_none() && pretrained.config.classes == imagenet.len() {
            labels = Some(imagenet.into_iter().map(String::from).collect());
        }
        // A checkpoint of ours says what it was trained on; where that is at hand, it knows the rest.
        if let Some(recipe) = recipe(&pretrained.weights)?
            && let Ok(splits) = recipe.dataset.open(recipe.data.as_deref())
        {
            normalization = splits.normalization;
            labels = Some(splits.test.class_names().to_vec());
        }
        let transform = transform(preprocessing, normalization)
            .with_context(|| format!("the configuration of {}", pretrained.source))?;
        Ok(Source { pretrained, transform, labels })
    }

    /// The name of a class.
    pub fn label(&self, class: usize) -> String {
        let known = self.labels.as_ref().and_then(|labels| labels.get(class));
        known.cloned().unwrap_or_else(|| format!("class {class}"))
    }
}

/// Opens the trained network that `text` names: what is there on the disk, else a repository.
pub fn pretrained(text: &str) -> Result<Pretrained> {
    let path = Path::new(text);
    let run = path.join(BEST);
    Ok(if run.is_file() {
        Pretrained::open(&run)?
    } else if path.exists() {
        Pretrained::open(path)?
    } else if looks_like_a_path(text) {
        bail!("{text}: no such file or folder");
    } else {
        let repo: RepoId = text.parse()?;
        Pretrained::from_hub(&Hub::from_env()?.with_progress(progress_bar()), &repo)?
    })
}

/// The recipe of the run that the weights are of, if they are a checkpoint's.
pub fn recipe(weights: &Weights) -> Result<Option<Recipe>> {
    let context = || format!("the recipe in {}", weights.path().display());
    recipe_of(weights).map(|recipe| serde_json::from_value(recipe).with_context(context)).transpose()
}

/// Whether a text that names nothing on the disk was meant to.
fn looks_like_a_path(text: &str) -> bool {
    let endings = [".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar"];
    text.starts_with(['.', '/', '~']) || endings.iter().any(|ending| text.ends_with(ending))
}

fn transform(preprocessing: &Preprocessing, normalization: Normalization) -> Result<EvalTransform> {
    let interpolation = match preprocessing.interpolation.as_str() {
        "bilinear" => Interpolation::Bilinear,
        "bicubic" => Interpolation::Bicubic,
        other => bail!("interpolation must be bilinear or bicubic, got {other}"),
    };
    let transform = EvalTransform {
        resize: preprocessing.resize(),
        crop: preprocessing.size,
        interpolation,
        normalization,
    };
    transform.validate()?;
    Ok(transform)
}

/// Shows a bar a file, on the terminal.
fn progress_bar() -> resnext_model::hub::Progress {
    let shown: Mutex<Option<(String, ProgressBar)>> = Mutex::new(None);
    Box::new(move |file, done, total| {
        let Ok(mut shown) = shown.lock() else { return };
        if shown.as_ref().is_none_or(|(name, _)| name != file) {
            let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {eta}");
            let bar = ProgressBar::new(total).with_message(file.to_string());
            *shown = Some((file.to_string(), style.map_or(bar.clone(), |style| bar.with_style(style))));
        }
        if let Some((_, bar)) = shown.as_ref() {
            bar.set_position(done);
            if done == total {
                bar.finish_and_clear();
            }
        }
    })
}
