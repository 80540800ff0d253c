//! Metrics summed over batches: loss, top-1 and top-5 accuracy, and correct predictions per class.

use crate::distributed::processes::Processes;
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

    /// The metrics of one training batch over all processes, and its mean loss, from the metrics of this one's part of it
    /// and from `loss`, this part's share of the mean loss. There are `classes` classes.
    pub(crate) fn of_batch(self, processes: &Processes, loss: f64, classes: usize) -> Result<(Metrics, f64)> {
        let mut sums = self.counts(classes);
        sums.push(loss);
        processes.sum_f64(&mut sums, "adding up metrics")?;
        let loss = sums.pop().unwrap_or(loss);
        let mut all = Metrics::from_counts(&sums);
        all.loss_sum = loss * all.count as f64;
        Ok((all, loss))
    }

    /// The metrics over the batches of all processes, from those of this one, batch by batch: batch i of rank r is
    /// batch i·N + r of the data set, and sums are in that order, so that they are those of a single process.
    pub(crate) fn of_batches(batches: &[Metrics], processes: &Processes, classes: usize) -> Result<Metrics> {
        const PURPOSE: &str = "adding up the evaluation";
        let mut own = Metrics::default();
        batches.iter().for_each(|batch| own.merge(batch));
        let mut counts = own.counts(classes);
        processes.sum_f64(&mut counts, PURPOSE)?;
        let losses: Vec<u8> = batches.iter().flat_map(|batch| batch.loss_sum.to_le_bytes()).collect();
        let losses = processes.gather(&losses, PURPOSE)?;
        let of = |rank: &[u8], batch: usize| {
            let bytes = rank.chunks_exact(8).nth(batch).and_then(|bytes| bytes.try_into().ok());
            bytes.map(f64::from_le_bytes)
        };
        let mut all = Metrics::from_counts(&counts);
        for batch in 0..losses.iter().map(|rank| rank.len() / 8).max().unwrap_or(0) {
            losses.iter().filter_map(|rank| of(rank, batch)).for_each(|loss| all.loss_sum += loss);
        }
        Ok(all)
    }

    /// Everything but the loss, as numbers to add up.
    fn counts(&self, classes: usize) -> Vec<f64> {
        let mut counts = vec![self.count as f64, self.top1 as f64, self.top5 as f64];
        let classes = self.per_class.iter().copied().chain(std::iter::repeat((0, 0))).take(classes);
        counts.extend(classes.flat_map(|(right, all)| [right as f64, all as f64]));
        counts
    }

    fn from_counts(counts: &[f64]) -> Self {
        let whole = |index: usize| counts.get(index).map_or(0, |&count| count as usize);
        let per_class = (3..counts.len()).step_by(2).map(|index| (whole(index), whole(index + 1))).collect();
        Metrics { count: whole(0), loss_sum: 0.0, top1: whole(1), top5: whole(2), per_class }
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
