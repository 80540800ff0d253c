//! Gradient clipping.

use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A limit on the gradients of a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clip {
    /// If the L2 norm of all gradients together exceeds this, all are scaled down to it: PyTorch's
    /// `clip_grad_norm_`.
    Norm(f64),
    /// Every element is clamped to this magnitude: PyTorch's `clip_grad_value_`.
    Value(f64),
}

impl Clip {
    /// Clips the gradients of one step, of any shapes.
    ///
    /// # Errors
    /// If a tensor cannot be read or scaled.
    pub fn apply<'a>(self, mut gradients: impl Iterator<Item = &'a mut Tensor>) -> Result<()> {
        match self {
            Clip::Value(limit) => gradients.try_for_each(|gradient| {
                *gradient = gradient.clamp(-limit, limit)?;
                Ok(())
            }),
            Clip::Norm(limit) => {
                let gradients: Vec<&mut Tensor> = gradients.collect();
                let norm = norm(gradients.iter().map(|gradient| &**gradient))?;
                let scale = limit / (norm + 1e-6);
                if scale < 1.0 {
                    for gradient in gradients {
                        *gradient = (&*gradient * scale)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Checks that the limit is in range.
    ///
    /// # Errors
    /// If it is not above 0.
    pub(crate) fn validate(self) -> Result<()> {
        let (Clip::Norm(limit) | Clip::Value(limit)) = self;
        match limit > 0.0 && limit.is_finite() {
            true => Ok(()),
            false => Err(Error::Config(format!("the limit of gradients must be above 0, got {limit}"))),
        }
    }
}

/// The L2 norm of all elements of some tensors together. The sum does not depend on the number of threads.
pub(crate) fn norm<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<f64> {
    let mut sum = 0.0;
    for tensor in tensors {
        sum += match tensor.device().is_cpu() {
            // f32 would lose digits over millions of elements.
            true => tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?,
            false => f64::from(tensor.sqr()?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?),
        };
    }
    Ok(sum.sqrt())
}

/// As on the command line: `norm=1` or `value=0.5`.
impl FromStr for Clip {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let clip = text.split_once('=').and_then(|(kind, limit)| match (kind, limit.parse()) {
            ("norm", Ok(limit)) => Some(Clip::Norm(limit)),
            ("value", Ok(limit)) => Some(Clip::Value(limit)),
            _ => None,
        });
        clip.ok_or_else(|| Error::Config(format!("expected norm=LIMIT or value=LIMIT, got `{text}`")))
    }
}

impl fmt::Display for Clip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clip::Norm(limit) => write!(f, "norm={limit}"),
            Clip::Value(limit) => write!(f, "value={limit}"),
        }
    }
}
