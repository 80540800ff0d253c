//! The errors of this crate.

use candle_core::{DType, Shape};

/// Why an operation of this crate failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An input has the wrong number of dimensions or a dimension of the wrong size.
    #[error("{op}: expected {expected}, got shape {got:?} for {input}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The input's name.
        input: &'static str,
        /// The shape it should have.
        expected: String,
        /// The shape it has.
        got: Shape,
    },
    /// A setting is out of range or does not fit the inputs.
    #[error("{op}: {message}")]
    Config {
        /// The operation.
        op: &'static str,
        /// The setting's value and the values that would be right.
        message: String,
    },
    /// An input has an element type that the operation does not support.
    #[error("{op}: expected {expected}, got {got:?} for {input}")]
    DType {
        /// The operation.
        op: &'static str,
        /// The input's name.
        input: &'static str,
        /// The types it may have.
        expected: String,
        /// The type it has.
        got: DType,
    },
    /// A value inside a tensor is out of range.
    #[error("{op}: {message}")]
    Value {
        /// The operation.
        op: &'static str,
        /// The value that is wrong, and its valid range.
        message: String,
    },
    /// Inside [`value_and_gradients`](crate::value_and_gradients) a tensor came from one of candle's
    /// own operations, whose gradient the tape does not record.
    #[error(
        "value_and_gradients: an input of {op} was made by a candle operation, so gradients would not reach the variables that it depends on; use resnext-ops' operations inside the closure"
    )]
    Untaped {
        /// The operation that received the tensor.
        op: &'static str,
    },
    /// Batch norm's sums over several processes ([`with_batch_sums`](crate::with_batch_sums)) failed.
    #[error("batch_norm: {0}")]
    BatchSums(Box<dyn std::error::Error + Send + Sync>),
    /// A range that maps cannot be quantized over.
    #[error(transparent)]
    Quantization(#[from] resnext_kernels::QuantizationError),
    /// An operation of candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation in this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            other => candle_core::Error::wrap(other),
        }
    }
}
