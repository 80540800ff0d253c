//! The losses of training, and what they make of labels.

use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use resnext_ops::{binary_cross_entropy, cross_entropy, soft_cross_entropy};
use serde::{Deserialize, Serialize};

/// The loss that training minimises. Evaluation always reports cross-entropy, so that runs can be compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Loss {
    /// Softmax and cross-entropy.
    #[default]
    CrossEntropy,
    /// Sigmoid and binary cross-entropy, the mean over images and classes (Wightman et al., "ResNet strikes
    /// back", arXiv 2110.00476, section 2.2).
    Bce {
        /// Targets above the threshold become 1 and all others 0, so that an image that mixes two has two
        /// classes. `None` leaves targets as they are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        threshold: Option<f64>,
    },
}

impl Loss {
    /// The loss of `logits` (N, K) as a scalar. `targets` are labels (N) of type u32, or weights per class
    /// (N, K) of float type, such as mixed labels. With `smoothing` s a target t becomes t·(1 - s) + s/K
    /// first.
    ///
    /// # Errors
    /// If shapes do not fit, or a label is not below K.
    pub fn of(self, logits: &Tensor, targets: &Tensor, smoothing: f64) -> Result<Tensor> {
        if self == Loss::CrossEntropy && targets.dtype() == DType::U32 {
            return Ok(cross_entropy(logits, targets, smoothing)?);
        }
        let classes = logits.dim(1)?;
        let targets = match targets.dtype() {
            DType::U32 => one_hot(targets, classes)?,
            _ => targets.clone(),
        };
        let wide = if logits.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let targets = ((targets.to_dtype(wide)? * (1.0 - smoothing))? + smoothing / classes as f64)?;
        Ok(match self {
            Loss::CrossEntropy => soft_cross_entropy(logits, &targets)?,
            Loss::Bce { threshold: None } => binary_cross_entropy(logits, &targets)?,
            Loss::Bce { threshold: Some(threshold) } => {
                let above = targets.gt(threshold)?.to_dtype(targets.dtype())?;
                binary_cross_entropy(logits, &above)?
            }
        })
    }

    /// The loss like [`of`](Self::of), with one weight per class (K), as in PyTorch's `CrossEntropyLoss(weight=…)`: the mean
    /// over labels is weighted by the labels' classes; over mixed targets it is the mean over images. An empty list stands
    /// for weights of 1.
    ///
    /// # Errors
    /// The errors of [`of`](Self::of); if the weights are not K numbers, or the loss is binary cross-entropy, whose
    /// classes are questions of their own.
    pub fn weighted(
        self,
        logits: &Tensor,
        targets: &Tensor,
        smoothing: f64,
        class_weights: &[f32],
    ) -> Result<Tensor> {
        if class_weights.is_empty() {
            return self.of(logits, targets, smoothing);
        }
        self.check_weights(class_weights)?;
        let (images, classes) = logits.dims2()?;
        if class_weights.len() != classes {
            let given = class_weights.len();
            return Err(Error::Config(format!(
                "{given} class weights for {classes} classes: expected one each"
            )));
        }
        let (rows, scale) = match targets.dtype() {
            DType::U32 => {
                let weight_of = |label: u32| class_weights.get(label as usize).copied().unwrap_or(0.0);
                let sum: f64 =
                    targets.to_vec1::<u32>()?.into_iter().map(|label| f64::from(weight_of(label))).sum();
                // Labels of classes that weigh nothing have no mean; their loss is 0.
                (one_hot(targets, classes)?, if sum > 0.0 { images as f64 / sum } else { 0.0 })
            }
            _ => (targets.clone(), 1.0),
        };
        let wide = if logits.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let rows = ((rows.to_dtype(wide)? * (1.0 - smoothing))? + smoothing / classes as f64)?;
        let weights = Tensor::new(class_weights, logits.device())?.to_dtype(wide)?;
        Ok(soft_cross_entropy(logits, &(rows.broadcast_mul(&weights)? * scale)?)?)
    }

    /// Checks that class weights are numbers of at least 0, not all 0, and that this loss takes them.
    ///
    /// # Errors
    /// [`Error::Config`], which says what is wrong.
    pub(crate) fn check_weights(self, class_weights: &[f32]) -> Result<()> {
        if class_weights.is_empty() {
            return Ok(());
        }
        if self != Loss::CrossEntropy {
            return Err(Error::Config(
                "class weights are for cross-entropy; binary cross-entropy asks about each class on its own"
                    .into(),
            ));
        }
        if let Some(weight) = class_weights.iter().find(|weight| !(**weight >= 0.0 && weight.is_finite())) {
            return Err(Error::Config(format!("class weights must be at least 0, got {weight}")));
        }
        match class_weights.iter().any(|weight| *weight > 0.0) {
            true => Ok(()),
            false => Err(Error::Config("class weights are all 0: expected one above it".into())),
        }
    }

    /// Checks that the threshold is in range.
    ///
    /// # Errors
    /// If it is not from 0 to below 1.
    pub(crate) fn validate(self) -> Result<()> {
        match self {
            Loss::Bce { threshold: Some(threshold) } if !(0.0..1.0).contains(&threshold) => {
                Err(Error::Config(format!(
                    "the threshold of binary cross-entropy must be from 0 to below 1, got {threshold}"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// The class of each example: the labels (N) of type u32 themselves, or the classes of the largest weights.
pub(crate) fn classes_of(targets: &Tensor) -> Result<Tensor> {
    Ok(if targets.dtype() == DType::U32 { targets.clone() } else { targets.argmax(1)? })
}

/// Labels (N) of type u32 as rows (N, `classes`) of f32 with a single 1.
fn one_hot(labels: &Tensor, classes: usize) -> Result<Tensor> {
    let mut rows = vec![0f32; labels.elem_count() * classes];
    for (i, label) in labels.to_vec1::<u32>()?.into_iter().enumerate() {
        let label = label as usize;
        if label >= classes {
            let message =
                format!("label {label} of example {i} is not below {classes}, the number of classes");
            return Err(resnext_ops::Error::Value { op: "one_hot", message }.into());
        }
        rows[i * classes + label] = 1.0;
    }
    Ok(Tensor::from_vec(rows, (labels.elem_count(), classes), labels.device())?)
}
