//! What is counted over batches: loss, top-1, top-5, and right answers a class.

use crate::Result;
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// Sums over the examples seen so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Examples.
    pub count: usize,
    loss_sum: f64,
    top1: usize,
    top5: usize,
    /// Right answers and examples of each class.
    pub per_class: Vec<(usize, usize)>,
}

impl Metrics {
    /// Adds a batch: `logits` (N, K), `labels` (N, u32) and its mean loss. An example is right in the top
    /// k if fewer than k other logits are at least the label's; NaN is never right.
    ///
    /// # Errors
    /// If the shapes are not these.
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

    /// Mean loss.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.count.max(1) as f64
    }

    /// Share of examples whose largest logit is the label's, from 0 to 1.
    pub fn top1(&self) -> f64 {
        self.top1 as f64 / self.count.max(1) as f64
    }

    /// Share of examples whose label is among the five largest logits, from 0 to 1.
    pub fn top5(&self) -> f64 {
        self.top5 as f64 / self.count.max(1) as f64
    }
}
