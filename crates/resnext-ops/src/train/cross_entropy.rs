//! Softmax cross-entropy with label smoothing, as one operation.

use crate::devices::Backend;
#[cfg(feature = "cuda")]
use crate::devices::cuda::cross_entropy::{loss, loss_gradient};
#[cfg(feature = "cuda")]
use crate::devices::cuda::memory::{cuda, tensor};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::layout::row_major;
use crate::train::cast::cast;
use crate::train::tape::{Output, apply1};
use crate::train::upcast::{upcast, with_float};
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};

/// The mean over the batch of the cross-entropy between softmax(`logits` (N, K)) and `labels` (N) u32, as a
/// scalar. With `smoothing` s the target is 1 - s + s/K for the label and s/K for the other classes, as in
/// PyTorch. The loss of bf16 and f16 logits is f32.
///
/// On CUDA a label that is not below K makes the loss, and the gradient of its example, NaN: checking labels
/// here would synchronise host and device every step. [`loss_value`] reports such a label.
///
/// # Errors
/// If shapes do not fit, the batch is empty, a label is not below K, or `smoothing` is not in 0..=1.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Result<Tensor> {
    const OP: &str = "cross_entropy";
    let shape = |input, expected: String, got: &Tensor| Error::Shape {
        op: OP,
        input,
        expected,
        got: got.shape().clone(),
    };
    let (n, classes) = logits.dims2().map_err(|_| shape("logits", "(N, classes)".into(), logits))?;
    if labels.dims() != [n] || n == 0 || classes == 0 {
        return Err(shape("labels", format!("[{n}], at least one"), labels));
    }
    if labels.dtype() != DType::U32 {
        return Err(Error::DType { op: OP, input: "labels", expected: "U32".into(), got: labels.dtype() });
    }
    if !(0.0..=1.0).contains(&smoothing) {
        return Err(Error::Config {
            op: OP,
            message: format!("label smoothing must be from 0 to 1, got {smoothing}"),
        });
    }
    match Backend::of(logits) {
        #[cfg(feature = "cuda")]
        Backend::Cuda => {
            if !labels.device().same_device(logits.device()) {
                let message = "logits and labels are on different devices".to_string();
                return Err(Error::Config { op: OP, message });
            }
            apply1(logits, OnCuda { labels: labels.clone(), smoothing }, Output::Plain)
        }
        Backend::Cpu => {
            let labels = checked(labels, classes)?;
            apply1(logits, CrossEntropy { labels, smoothing }, Output::Plain)
        }
        _ => {
            checked(labels, classes)?;
            let wide = if logits.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            let logits = cast(logits, wide)?;
            let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
            let log_p = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
            let label = log_p.gather(&labels.unsqueeze(1)?, 1)?.mean_all()?;
            Ok(((label * (smoothing - 1.0))? - (log_p.mean_all()? * smoothing)?)?)
        }
    }
}

/// The value of a loss of [`cross_entropy`] over `classes` classes. Waits for the device once, and checks the
/// labels only if the value is NaN.
///
/// # Errors
/// If it is NaN and a label is not below `classes`; if it is not a scalar.
pub fn loss_value(loss: &Tensor, labels: &Tensor, classes: usize) -> Result<f64> {
    let value = match loss.dtype() {
        DType::F64 => loss.to_scalar::<f64>()?,
        // Read in its own type: a cast would be one more launch.
        _ => f64::from(loss.to_scalar::<f32>()?),
    };
    if value.is_nan() {
        checked(labels, classes)?;
    }
    Ok(value)
}

/// The labels as integers, which must all be below `classes`.
fn checked(labels: &Tensor, classes: usize) -> Result<Vec<u32>> {
    let values = labels.to_vec1::<u32>()?;
    match values.iter().enumerate().find(|&(_, &label)| label as usize >= classes) {
        None => Ok(values),
        Some((i, label)) => Err(Error::Value {
            op: "cross_entropy",
            message: format!("label {label} of example {i} is not below {classes}, the number of classes"),
        }),
    }
}

/// The loss as a custom op of logits (N, K), with labels that are all below K.
struct CrossEntropy {
    labels: Vec<u32>,
    smoothing: f64,
}

impl CrossEntropy {
    /// The log-probabilities of one example, in f64.
    fn log_softmax<T: Element>(row: &[T]) -> Vec<f64> {
        let max = row.iter().map(|v| v.as_f64()).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|v| (v.as_f64() - max).exp()).sum();
        row.iter().map(|v| v.as_f64() - max - sum.ln()).collect()
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            op: &CrossEntropy,
            storage: &CpuStorage,
            layout: &Layout,
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            let logits = row_major::<T>(storage, layout)?;
            let (n, classes) = layout.shape().dims2()?;
            let mut loss = 0.0;
            for (row, &label) in logits.chunks_exact(classes).zip(&op.labels) {
                let log_p = CrossEntropy::log_softmax(row);
                let mean = log_p.iter().sum::<f64>() / classes as f64;
                loss -= (1.0 - op.smoothing) * log_p[label as usize] + op.smoothing * mean;
            }
            Ok((T::to_cpu_storage_owned(vec![T::of_f64(loss / n as f64)]), Shape::from(())))
        }
        let storage = upcast(storage);
        let storage: &CpuStorage = &storage;
        with_float!(storage, inner(self, storage, layout))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (n, classes) = logits.dims2()?;
        let values = logits.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let scale = grad.to_dtype(DType::F64)?.to_scalar::<f64>()? / n as f64;
        let mut out = Vec::with_capacity(n * classes);
        for (row, &label) in values.iter().zip(&self.labels) {
            let off = self.smoothing / classes as f64;
            out.extend(CrossEntropy::log_softmax(row).iter().enumerate().map(|(k, log_p)| {
                let target = if k == label as usize { 1.0 - self.smoothing + off } else { off };
                scale * (log_p.exp() - target)
            }));
        }
        Ok(Some(Tensor::from_vec(out, (n, classes), logits.device())?.to_dtype(logits.dtype())?))
    }
}

/// [`CrossEntropy`] with labels on a CUDA device.
#[cfg(feature = "cuda")]
struct OnCuda {
    labels: Tensor,
    smoothing: f64,
}

#[cfg(feature = "cuda")]
impl CustomOp1 for OnCuda {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        candle_core::bail!("cross-entropy with labels on CUDA: expected logits on that device")
    }

    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        let (labels, labels_layout) = self.labels.storage_and_layout();
        let labels = (cuda(&labels)?, labels_layout);
        Ok((loss((storage, layout), labels, self.smoothing)?, Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (labels, labels_layout) = self.labels.storage_and_layout();
        let (values, layout) = logits.storage_and_layout();
        let (grad, grad_layout) = grad.storage_and_layout();
        let dx = loss_gradient(
            (cuda(&values)?, layout),
            (cuda(&labels)?, labels_layout),
            (cuda(&grad)?, grad_layout),
            self.smoothing,
        )?;
        Ok(Some(tensor(dx, logits.dims2()?)))
    }
}
