//! Evaluation of a network on a test set.

use crate::data::Batches;
use crate::error::Result;
use crate::metrics::Metrics;
use candle_core::Tensor;
use resnext_ops::{cross_entropy, loss_value};

/// Evaluates `network`, a function from images (N, 3, H, W) to logits (N, classes), over `batches`. After
/// each batch, `observe` is called with the number of examples so far, the batch's logits (N, classes) and
/// its labels (N).
///
/// # Errors
/// Any error of the data, the network or `observe`.
pub fn evaluate(
    network: impl Fn(&Tensor) -> resnext_model::Result<Tensor>,
    batches: Batches,
    mut observe: impl FnMut(usize, &Tensor, &Tensor) -> Result<()>,
) -> Result<Metrics> {
    let mut metrics = Metrics::default();
    for batch in batches {
        let (images, labels) = batch?;
        let logits = network(&images)?.detach();
        let loss = loss_value(&cross_entropy(&logits, &labels, 0.0)?, &labels, logits.dim(1)?)?;
        metrics.add(&logits, &labels, loss)?;
        observe(metrics.count, &logits, &labels)?;
    }
    Ok(metrics)
}
