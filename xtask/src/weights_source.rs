//! The trained network that a user names: a run folder, a file, another folder, or a repository of the hub.

use crate::checkpoint;
use crate::run_folder::BEST;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use resnext_data::{EvalTransform, Interpolation, Normalization, imagenet};
use resnext_model::hub::{Hub, RepoId};
use resnext_model::{Preprocessing, Pretrained};
use std::path::Path;
use std::sync::Mutex;

/// A trained network, with what it takes to use it on photos.
pub struct Source {
    pub pretrained: Pretrained,
    pub transform: EvalTransform,
    /// The names of the classes, if they are known.
    labels: Option<Vec<String>>,
}

impl Source {
    /// Opens the network that `text` names, and finds out how its input images are prepared.
    pub fn open(text: &str) -> Result<Self> {
        let pretrained = pretrained(text)?;
        let preprocessing = &pretrained.preprocessing;
        let mut normalization = Normalization { mean: preprocessing.mean, std: preprocessing.std };
        let mut labels = pretrained.labels.clone();
        let imagenet = imagenet::class_names();
        if labels.is_none() && pretrained.config.classes == imagenet.len() {
            labels = Some(imagenet.into_iter().map(String::from).collect());
        }
        // A run's checkpoint names its data set. If that can be opened, it has the normalization and the
        // names.
        if let Some(recipe) = checkpoint::recipe(&pretrained.weights)?
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

/// Opens the trained network that `text` names: a file or folder if it exists, else a repository.
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

/// Whether a text that names no existing file was meant as a path rather than as a repository.
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

/// Shows a progress bar per downloaded file.
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
