//! A batch of which each process has a part.

use crate::distributed::processes::Processes;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use candle_core::{DType, Tensor};

/// The weight of this process's loss in that of the whole batch: its share of the images, or of their classes'
/// weights.
pub(crate) fn share_of(processes: &Processes, targets: &Tensor, class_weights: &[f32]) -> Result<f64> {
    if processes.size() == 1 {
        return Ok(1.0);
    }
    let own = match class_weights.is_empty() || targets.dtype() != DType::U32 {
        true => targets.dim(0)? as f64,
        false => {
            let weight =
                |label: u32| class_weights.get(label as usize).map_or(0.0, |&weight| f64::from(weight));
            targets.to_vec1::<u32>()?.into_iter().map(weight).sum()
        }
    };
    let mut all = [own];
    processes.sum_f64(&mut all, "adding up batch sizes")?;
    Ok(if all[0] > 0.0 { own / all[0] } else { 1.0 / processes.size() as f64 })
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
    let mut loss = [share * loss];
    processes.sum_f64(&mut loss, "adding up the loss")?;
    let all = own.of_batch(processes, loss[0], logits.dim(1)?)?;
    if all.count > expected {
        let count = all.count;
        let message = format!(
            "the processes have {count} images of a batch of {expected}: each must have its own part of it"
        );
        return Err(Error::AllProcesses(message));
    }
    Ok((all, loss[0]))
}
