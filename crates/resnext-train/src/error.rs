//! The error type of this crate.

use std::path::PathBuf;

/// An error from training, or from reading and writing checkpoints.
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
        /// The file.
        path: PathBuf,
        /// The error from the operating system.
        source: std::io::Error,
    },
    /// A file is not a safetensors file, or is truncated.
    #[error("{path} is not a complete safetensors file: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        reason: String,
    },
    /// A safetensors file is not a checkpoint of this crate.
    #[error("{path} is not a checkpoint: {reason}")]
    NotACheckpoint {
        /// The file.
        path: PathBuf,
        /// The missing or different part.
        reason: String,
    },
    /// A file's tensors do not match the network's.
    #[error("{path} does not fit the network: {problem}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The missing and unexpected tensors, and those of another shape.
        problem: String,
    },
    /// A run is resumed on another training set.
    #[error("the run was trained on {saved}; it cannot continue on {got}")]
    OtherData {
        /// The line of the saved run's training set.
        saved: String,
        /// The line of the given one.
        got: String,
    },
    /// The loss became infinite or NaN.
    #[error(
        "the loss is {loss} at step {step}: training diverged; \
         a lower learning rate or a longer warm-up may help"
    )]
    Diverged {
        /// Completed optimizer steps.
        step: usize,
        /// The loss of the step.
        loss: f64,
    },
    /// The [`Data`](crate::Data) failed.
    #[error("{0}")]
    Data(Box<dyn std::error::Error + Send + Sync>),
    /// This process cannot go on with the others.
    #[error("{0}")]
    Processes(String),
    /// Processes that train together differ, or one of them failed. All of them return this error.
    #[error("{0}")]
    AllProcesses(String),
    /// An error from the network.
    #[error(transparent)]
    Model(#[from] resnext_model::Error),
    /// An operation of `resnext-ops` failed, such as the loss.
    #[error(transparent)]
    Op(#[from] resnext_ops::Error),
    /// An operation of candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// Whether every process of a run has this error, and not only this one: it follows from what they all know.
    pub fn is_shared(&self) -> bool {
        matches!(self, Error::Diverged { .. } | Error::AllProcesses(_))
    }
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
