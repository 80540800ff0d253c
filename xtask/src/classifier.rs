//! A trained network that can be used on photos.

use crate::checkpoint;
use crate::weights_source::pretrained;
use anyhow::{Context, Result, bail};
use resnext_data::{EvalTransform, Interpolation, Normalization, imagenet};
use resnext_model::{Preprocessing, Pretrained};

/// A trained network, with the preparation of its input images and the names of its classes.
pub struct Classifier {
    pub pretrained: Pretrained,
    pub transform: EvalTransform,
    /// The names of the classes, if they are known.
    labels: Option<Vec<String>>,
}

impl Classifier {
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
        Ok(Classifier { pretrained, transform, labels })
    }

    /// The name of a class.
    pub fn label(&self, class: usize) -> String {
        let known = self.labels.as_ref().and_then(|labels| labels.get(class));
        known.cloned().unwrap_or_else(|| format!("class {class}"))
    }
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
