//! Metrics summed over batches: loss, top-1 and top-5 accuracy, and correct predictions per class.

use crate::error::Result;
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// Sums over the examples seen so far. The accessors give means.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The number of examples.
    pub count: usize,
    loss_sum: f64,
    top1: usize,
    top5: usize,
    /// Per class: correct predictions and examples, indexed by label.
    pub per_class: Vec<(usize, usize)>,
}

impl Metrics {
    /// Adds a batch: `logits` (N, K) of any float type, `labels` (N) of type u32, and the batch's mean loss.
    /// The label is among the top k if fewer than k other logits are greater than or equal to its own. NaN
    /// logits count as wrong.
    ///
    /// # Errors
    /// If the logits are not (N, K) of a float type, or the labels not (N) of u32.
    pub fn add(&mut self, logits: &Tensor, labels: &Tensor, loss: f64) -> Result<()> {
        let logits = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let labels = labels.to_vec1::<u32>()?;
        self.count += labels.len();
        self.loss_sum += loss * labels.len() as f64;
        for (row, &label) in logits.iter().zip(&labels) {
            let label = label as usize;
            if self.per_class.len() < row.len() {
                self.per_class.resize(row.len(), (0, 0));
            }
            let Some(&own) = row.get(label) else { continue };
            let others =
                row.iter().enumerate().filter(|&(k, &v)| k != label && (v >= own || v.is_nan())).count();
            let right = others == 0 && !own.is_nan();
            self.top1 += usize::from(right);
            self.top5 += usize::from(others < 5 && !own.is_nan());
            self.per_class[label].0 += usize::from(right);
            self.per_class[label].1 += 1;
        }
        Ok(())
    }

    /// Adds the examples of `other`.
    pub fn merge(&mut self, other: &Metrics) {
        self.count += other.count;
        self.loss_sum += other.loss_sum;
        self.top1 += other.top1;
        self.top5 += other.top5;
        if self.per_class.len() < other.per_class.len() {
            self.per_class.resize(other.per_class.len(), (0, 0));
        }
        for (own, other) in self.per_class.iter_mut().zip(&other.per_class) {
            *own = (own.0 + other.0, own.1 + other.1);
        }
    }

    /// The mean loss per example.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.count.max(1) as f64
    }

    /// The fraction of examples whose label has the largest logit, from 0 to 1.
    pub fn top1(&self) -> f64 {
        self.top1 as f64 / self.count.max(1) as f64
    }

    /// The fraction of examples whose label is among the five largest logits, from 0 to 1.
    pub fn top5(&self) -> f64 {
        self.top5 as f64 / self.count.max(1) as f64
    }
}
