//! Losses whose targets are a weight per class: softmax and binary cross-entropy.

use crate::devices::has_kernel;
use crate::error::{Error, Result};
use crate::train::cast::cast;
use crate::train::tape::{needs_gradient, record, recording};
use candle_core::{DType, Device, Tensor};

/// The mean over the batch of -Σ target·log softmax(`logits`), of logits and `targets` (N, K), as a scalar.
/// Targets of float type are usually probabilities, such as mixed labels, but need not sum to 1: a row that is
/// multiplied by a number counts that many times. One-hot rows give
/// [`cross_entropy`](crate::cross_entropy). The loss of bf16 and f16 logits is f32.
///
/// # Errors
/// If the shapes differ, or the batch is empty.
pub fn soft_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    const OP: &str = "soft_cross_entropy";
    let (n, _) = check(OP, logits, targets)?;
    let logits = cast(logits, wide(logits.dtype()))?;
    if recording() && has_kernel(&logits) {
        return on_host(OP, &logits, targets, |row, target| {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = max + row.iter().map(|v| (v - max).exp()).sum::<f64>().ln();
            let mass: f64 = target.iter().sum();
            let loss: f64 = row.iter().zip(target).map(|(v, t)| t * (log_sum - v)).sum();
            let gradient = row.iter().zip(target).map(|(v, t)| (mass * (v - log_sum).exp() - t) / n as f64);
            (loss / n as f64, gradient.collect())
        });
    }
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
    let log_p = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
    Ok(((log_p * targets.to_dtype(logits.dtype())?)?.sum_all()? * (-1.0 / n as f64))?)
}

/// The mean over batch and classes of the binary cross-entropy between sigmoid(`logits`) and `targets`, both
/// (N, K), as a scalar: each class is a question of its own. PyTorch's `binary_cross_entropy_with_logits`. The
/// loss of bf16 and f16 logits is f32.
///
/// # Errors
/// If the shapes differ, or the batch is empty.
pub fn binary_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    const OP: &str = "binary_cross_entropy";
    let (n, classes) = check(OP, logits, targets)?;
    let logits = cast(logits, wide(logits.dtype()))?;
    let count = (n * classes) as f64;
    if recording() && has_kernel(&logits) {
        return on_host(OP, &logits, targets, |row, target| {
            // log(1 + exp(v)) - t·v, without overflow.
            let loss = |(v, t): (&f64, &f64)| v.max(0.0) - v * t + (-v.abs()).exp().ln_1p();
            let gradient = row.iter().zip(target).map(|(v, t)| (1.0 / (1.0 + (-v).exp()) - t) / count);
            (row.iter().zip(target).map(loss).sum::<f64>() / count, gradient.collect())
        });
    }
    let targets = targets.to_dtype(logits.dtype())?;
    let softplus = (logits.relu()? + ((logits.abs()?.neg()?.exp()? + 1.0)?.log()?))?;
    Ok(((softplus - (&logits * targets)?)?.sum_all()? * (1.0 / count))?)
}

/// The type that the loss of logits of type `dtype` is computed in.
fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// The sizes (N, K), which both tensors must have.
fn check(op: &'static str, logits: &Tensor, targets: &Tensor) -> Result<(usize, usize)> {
    let shape =
        |input, expected: String, t: &Tensor| Error::Shape { op, input, expected, got: t.shape().clone() };
    let (n, classes) = logits.dims2().map_err(|_| shape("logits", "(N, classes)".into(), logits))?;
    if n == 0 || classes == 0 {
        return Err(shape("logits", "at least one row and one class".into(), logits));
    }
    if targets.dims() != logits.dims() {
        return Err(shape("targets", format!("{:?}, the shape of the logits", logits.dims()), targets));
    }
    if !targets.dtype().is_float() {
        let expected = "a float type".to_string();
        return Err(Error::DType { op, input: "targets", expected, got: targets.dtype() });
    }
    Ok((n, classes))
}

/// A loss on the tape. `row` gives the loss of one example and its gradient, in f64, from its logits and
/// targets; there are few enough of them to be computed on the host, in one order on every device.
fn on_host(
    op: &'static str,
    logits: &Tensor,
    targets: &Tensor,
    row: impl Fn(&[f64], &[f64]) -> (f64, Vec<f64>),
) -> Result<Tensor> {
    let rows = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec2::<f64>();
    let (mut sum, mut gradient) = (0.0, Vec::with_capacity(logits.elem_count()));
    for (logits, targets) in rows(logits)?.iter().zip(&rows(targets)?) {
        let (loss, own) = row(logits, targets);
        sum += loss;
        gradient.extend(own);
    }
    let onto = |t: Tensor| t.to_dtype(logits.dtype())?.to_device(logits.device());
    let loss = onto(Tensor::new(sum, &Device::Cpu)?)?;
    if needs_gradient(op, logits)? {
        let gradient = Tensor::from_vec(gradient, logits.dims(), &Device::Cpu)?;
        let (input, gradient) = (logits.clone(), onto(gradient)?);
        record(&loss, move |g| Ok(vec![(input.clone(), Some(gradient.broadcast_mul(g)?))]));
    }
    Ok(loss)
}
