//! Distances between tensors.

use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use rayon::prelude::*;

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

/// Elements that are converted at a time: few enough for a cache, and for memory that the allocator keeps.
const CHUNK: usize = 1 << 13;

/// The elements in parts, in row-major order: tensors of tens of millions of weights are compared, and all of them at once
/// would take as much memory again.
fn parts(x: &Tensor) -> Result<Vec<Tensor>> {
    let flat = x.detach().flatten_all()?;
    let count = flat.elem_count();
    let part = |at: usize| Ok(flat.narrow(0, at, CHUNK.min(count - at))?);
    (0..count).step_by(CHUNK).map(part).collect()
}

/// The largest magnitude in a tensor.
pub(super) fn largest(x: &Tensor) -> Result<f64> {
    let part = |part: Tensor| Ok(values(&part)?.iter().fold(0f64, |most, v| most.max(v.abs())));
    parts(x)?.into_par_iter().map(part).try_reduce(|| 0.0, |a, b| Ok(a.max(b)))
}

/// The largest difference between two tensors.
pub(super) fn distance(expected: &Tensor, got: &Tensor) -> Result<f64> {
    let part = |(expected, got): (Tensor, Tensor)| {
        let (expected, got) = (values(&expected)?, values(&got)?);
        Ok(expected.iter().zip(&got).map(|(e, g)| (e - g).abs()).fold(0.0, worse))
    };
    parts(expected)?.into_par_iter().zip(parts(got)?).map(part).try_reduce(|| 0.0, |a, b| Ok(worse(a, b)))
}

/// Whether two tensors of one shape and type have the same bits, all of finite numbers.
pub(super) fn same_bits(a: &Tensor, b: &Tensor) -> Result<bool> {
    let part = |(a, b): (Tensor, Tensor)| {
        let (a, b) = (values(&a)?, values(&b)?);
        Ok(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits() && a.is_finite()))
    };
    parts(a)?.into_par_iter().zip(parts(b)?).map(part).try_reduce(|| true, |a, b| Ok(a && b))
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
