//! What can go wrong in training.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is out of range.
    #[error("{0}")]
    Config(String),
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not a safetensors file, or is cut short.
    #[error("{path} is not a whole safetensors file: {reason}")]
    Format {
        /// Which.
        path: PathBuf,
        /// What the parser found.
        reason: String,
    },
    /// A safetensors file is no checkpoint of this program.
    #[error("{path} is not a checkpoint: {reason}")]
    NotACheckpoint {
        /// Which.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A file's tensors are not those of the network.
    #[error("{path} does not fit the network: {problem}")]
    Mismatch {
        /// Which.
        path: PathBuf,
        /// Missing, unexpected or misshapen tensors.
        problem: String,
    },
    /// The loss is no longer a number.
    #[error(
        "the loss is {loss} at step {step}: training diverged; a lower learning rate or a longer warm-up may help"
    )]
    Diverged {
        /// Optimizer steps done.
        step: usize,
        /// What the loss was.
        loss: f64,
    },
    /// The data could not be had.
    #[error("data: {0}")]
    Data(Box<dyn std::error::Error + Send + Sync>),
    /// The network failed.
    #[error(transparent)]
    Model(#[from] resnext_model::Error),
    /// An operation failed.
    #[error(transparent)]
    Op(#[from] resnext_ops::Error),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
