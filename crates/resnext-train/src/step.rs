//! The forward and backward pass of one batch, which every training loop shares.

use crate::error::{Error, Result};
use candle_core::Tensor;
use resnext_model::ResNext;
use resnext_ops::{BatchSums, Gradients, cross_entropy, value_and_gradients_with, with_batch_sums};
use std::sync::Arc;
use std::time::Instant;

/// The results of [`forward_backward`].
#[derive(Debug)]
pub struct ForwardBackward {
    /// The mean loss of the batch, a scalar.
    pub loss: Tensor,
    /// The logits, (N, classes).
    pub logits: Tensor,
    /// The gradients of the loss with respect to every variable of the network that is not frozen.
    pub gradients: Gradients,
    /// The time, on the host's clock, at which the loss was computed and the backward pass began.
    pub forward_end: Instant,
}

/// Computes the loss of a batch and its gradients, in training mode: batch norm uses the batch's own
/// statistics and updates the running ones.
///
/// `images` are (N, 3, H, W), `labels` (N) of u32; `label_smoothing` is from 0 to 1.
///
/// # Errors
/// If shapes or types do not fit the network.
pub fn forward_backward(
    network: &ResNext,
    images: &Tensor,
    labels: &Tensor,
    label_smoothing: f64,
) -> Result<ForwardBackward> {
    forward_backward_with(network, images, |logits| Ok(cross_entropy(logits, labels, label_smoothing)?))
}

/// Computes like [`forward_backward`], with any loss: a function from the logits (N, classes) to a scalar, by operations
/// that the tape knows, such as [`Loss::of`](crate::Loss::of).
///
/// # Errors
/// If shapes or types do not fit the network, or the loss fails.
pub fn forward_backward_with(
    network: &ResNext,
    images: &Tensor,
    loss: impl Fn(&Tensor) -> Result<Tensor> + Sync,
) -> Result<ForwardBackward> {
    forward_backward_shared(|images| network.forward(images, true), images, loss, None, |_, _| Ok(()))
}

/// Computes like [`forward_backward_with`], on this process's part of a batch and with any network: `forward` goes from
/// images to logits. Batch norms use `sums`, if given, and `arrived` gets gradients during the backward pass, as in
/// [`value_and_gradients_with`].
pub(crate) fn forward_backward_shared(
    forward: impl Fn(&Tensor) -> resnext_model::Result<Tensor> + Sync,
    images: &Tensor,
    loss: impl Fn(&Tensor) -> Result<Tensor> + Sync,
    sums: Option<Arc<dyn BatchSums>>,
    arrived: impl FnMut(&Tensor, &Tensor) -> Result<()> + Send,
) -> Result<ForwardBackward> {
    let mut end = None;
    // All of it runs on one thread of the pool: dispatching each operation to the pool separately would cost
    // more than the small ones take.
    let (loss, gradients) = rayon::scope(|_| {
        let run = || -> Result<Tensor> {
            let logits = forward(images)?;
            let loss = loss(&logits)?;
            end = Some((logits.detach(), Instant::now()));
            Ok(loss)
        };
        match sums {
            Some(sums) => with_batch_sums(sums, || value_and_gradients_with(run, arrived)),
            None => value_and_gradients_with(run, arrived),
        }
    })?;
    let (logits, forward_end) = end.ok_or_else(|| Error::Data("the forward pass did not run".into()))?;
    Ok(ForwardBackward { loss, logits, gradients, forward_end })
}
