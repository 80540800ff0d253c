//! What can be wrong with an operation's inputs.

use candle_core::{DType, Shape};

/// An error of an operation in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An input has the wrong number of dimensions or a dimension of the wrong size.
    #[error("{op}: expected {expected}, got shape {got:?} for {input}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Which input.
        input: &'static str,
        /// What would be right.
        expected: String,
        /// What was given.
        got: Shape,
    },
    /// A setting is out of range, or does not fit the inputs.
    #[error("{op}: {message}")]
    Config {
        /// The operation.
        op: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The inputs have an element type the operation does not compute in.
    #[error("{op}: expected {expected}, got {got:?} for {input}")]
    DType {
        /// The operation.
        op: &'static str,
        /// Which input.
        input: &'static str,
        /// What would be right.
        expected: String,
        /// What was given.
        got: DType,
    },
    /// A value inside a tensor is out of range.
    #[error("{op}: {message}")]
    Value {
        /// The operation.
        op: &'static str,
        /// Which value, and the range.
        message: String,
    },
    /// Inside [`value_and_gradients`](crate::value_and_gradients) a tensor came from one of candle's
    /// own operations, whose gradient the tape cannot follow.
    #[error(
        "value_and_gradients: an input of {op} was made by a candle operation, so gradients would not reach the variables behind it; use resnext-ops' operations inside the closure"
    )]
    Untaped {
        /// The operation that was given the tensor.
        op: &'static str,
    },
    /// A range that maps cannot be quantized over.
    #[error(transparent)]
    Quantization(#[from] resnext_kernels::QuantizationError),
    /// candle failed.
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
