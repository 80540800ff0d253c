//! The losses of training, and what they make of labels.

use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use resnext_ops::{binary_cross_entropy, cross_entropy, soft_cross_entropy};
use serde::{Deserialize, Serialize};

/// What training minimises. Evaluation always reports cross-entropy, so that runs can be compared.
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
