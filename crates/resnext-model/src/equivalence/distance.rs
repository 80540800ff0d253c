//! Distances between tensors.

use crate::error::{Error, Result};
use candle_core::{DType, Tensor};

/// The machine epsilon of a type: the distance from 1 to the next larger number.
///
/// # Errors
/// [`Error::Config`] if the type is not f64, f32, f16 or bf16.
pub fn epsilon(dtype: DType) -> Result<f64> {
    match dtype {
        DType::F64 => Ok(f64::EPSILON),
        DType::F32 => Ok(f32::EPSILON as f64),
        DType::F16 => Ok(2f64.powi(-10)),
        DType::BF16 => Ok(2f64.powi(-7)),
        other => Err(Error::Config(format!("expected a floating type, got {other:?}"))),
    }
}

/// All elements in row-major order.
pub(super) fn values(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

/// The largest magnitude in a tensor.
pub(super) fn largest(x: &Tensor) -> Result<f64> {
    Ok(values(x)?.iter().fold(0f64, |most, v| most.max(v.abs())))
}

/// The largest difference between two tensors.
pub(super) fn distance(expected: &Tensor, got: &Tensor) -> Result<f64> {
    let (expected, got) = (values(expected)?, values(got)?);
    Ok(expected.iter().zip(&got).map(|(e, g)| (e - g).abs()).fold(0.0, worse))
}

/// The larger of two errors, where NaN is the largest: `f64::max` would ignore it.
pub(super) fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a >= b { a } else { b }
}

/// The largest difference between two tensors, in units of `unit` times the largest magnitude in `expected`.
pub(super) fn relative_error(expected: &Tensor, got: &Tensor, unit: f64) -> Result<f64> {
    let distance = distance(expected, got)?;
    Ok(if distance == 0.0 { 0.0 } else { distance / (unit * largest(expected)?) })
}
