//! A batch of which each process has a part.

use crate::distributed::processes::Processes;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use candle_core::{DType, Tensor};

/// What part of a batch this process has, from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchShare {
    /// Its part of the weight of the loss: of the images, or of the weights of their classes.
    pub loss: f64,
    /// Its part of the images.
    pub images: f64,
}

/// This process's share of a batch, of which it has images with these targets.
pub(crate) fn share_of(processes: &Processes, targets: &Tensor, class_weights: &[f32]) -> Result<BatchShare> {
    if processes.size() == 1 {
        return Ok(BatchShare { loss: 1.0, images: 1.0 });
    }
    let images = targets.dim(0)? as f64;
    let weight = match class_weights.is_empty() || targets.dtype() != DType::U32 {
        true => images,
        false => {
            let weight =
                |label: u32| class_weights.get(label as usize).map_or(0.0, |&weight| f64::from(weight));
            targets.to_vec1::<u32>()?.into_iter().map(weight).sum()
        }
    };
    let mut all = [weight, images];
    processes.sum_f64(&mut all, "adding up batch sizes")?;
    let part = |own: f64, all: f64| if all > 0.0 { own / all } else { 1.0 / processes.size() as f64 };
    Ok(BatchShare { loss: part(weight, all[0]), images: part(images, all[1]) })
}

/// The metrics and the mean loss of the whole batch, from the logits (N, K), the labels (N) and the mean loss of this
/// process's part of it, which counts `share` times. The batch has `expected` images at most.
///
/// # Errors
/// [`Error::AllProcesses`] if it has more.
pub(crate) fn metrics_of_batch(
    processes: &Processes,
    (logits, labels): (&Tensor, &Tensor),
    (loss, share): (f64, f64),
    expected: usize,
) -> Result<(Metrics, f64)> {
    let mut own = Metrics::default();
    own.add(logits, labels, loss)?;
    if processes.size() == 1 {
        return Ok((own, loss));
    }
    let (all, loss) = own.of_batch(processes, share * loss, logits.dim(1)?)?;
    if all.count > expected {
        let count = all.count;
        let message = format!(
            "the processes have {count} images of a batch of {expected}: each must have its own part of it"
        );
        return Err(Error::AllProcesses(message));
    }
    Ok((all, loss))
}
