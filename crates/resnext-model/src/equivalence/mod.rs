//! The proof that forms (a), (b) and (c) of figure 3 compute one function, to be run.
//!
//! [`identity`](fn@identity) is exact: integers through the project's kernels, equal to the last bit, and a bound on
//! the chance that unequal functions pass. [`activations`](fn@activations) does the same with batch norm and ReLU.
//! [`layer_errors`] and [`network_errors`] measure what rounding does to real numbers, and
//! [`controls`](fn@controls) breaks the forms in every way we could think of, to see that it shows.
//! `docs/equivalence.md` has the theorems and says what is not proved.
//!
//! ```
//! use candle_core::{DType, Device};
//! use resnext_model::{Config, equivalence::{Stack, identity}};
//!
//! let config = Config::by_name("resnext11_3x5d")?;
//! let block = &Stack::distinct_blocks(&config)[0];
//! let verdict = identity(block, DType::F64, &Device::Cpu, 1e-15, 42)?;
//! assert_eq!(verdict.tally.bits, 0);
//! assert!(verdict.bound <= 1e-15);
//! # Ok::<(), resnext_model::Error>(())
//! ```

mod activations;
mod controls;
mod identity;
mod layers;
mod networks;
mod stack;
mod tally;

pub use activations::activations;
pub use controls::{Control, controls};
pub use identity::{Identity, identity};
pub use layers::{LayerError, layer_errors, output_error};
pub use networks::{Depth, NetworkErrors, network_errors};
pub use stack::Stack;
pub use tally::{Difference, Tally};

use crate::Result;
use candle_core::{DType, Tensor};

/// The distance from 1 to the next larger number of a type: its machine epsilon.
///
/// # Errors
/// If the type is not f64, f32, f16 or bf16.
pub fn epsilon(dtype: DType) -> Result<f64> {
    match dtype {
        DType::F64 => Ok(f64::EPSILON),
        DType::F32 => Ok(f32::EPSILON as f64),
        DType::F16 => Ok(2f64.powi(-10)),
        DType::BF16 => Ok(2f64.powi(-7)),
        other => Err(crate::Error::Config(format!("expected a floating type, got {other:?}"))),
    }
}

/// All elements, in logical order.
fn values(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

/// The largest magnitude in a tensor.
fn largest(x: &Tensor) -> Result<f64> {
    Ok(values(x)?.iter().fold(0f64, |most, v| most.max(v.abs())))
}

/// The largest difference between two tensors.
fn distance(expected: &Tensor, got: &Tensor) -> Result<f64> {
    let (expected, got) = (values(expected)?, values(got)?);
    Ok(expected.iter().zip(&got).map(|(e, g)| (e - g).abs()).fold(0.0, worse))
}

/// The larger of two errors. `f64::max` would pass over a NaN, which is the largest of all.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a >= b { a } else { b }
}

/// The largest difference between two tensors, in units of `unit` × the largest magnitude of the first.
fn relative_error(expected: &Tensor, got: &Tensor, unit: f64) -> Result<f64> {
    let distance = distance(expected, got)?;
    Ok(if distance == 0.0 { 0.0 } else { distance / (unit * largest(expected)?) })
}
