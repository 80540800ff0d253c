//! What can be wrong with a configuration or an input.

use candle_core::Shape;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model has this name.
    #[error("unknown model `{name}`{}; known: {}; or any resnext{{11,20,29,50,101,152,200}}_CxDd, such as resnext50_16x8d",
        nearest.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default(), crate::presets::names().join(", "))]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// The preset with the most similar name.
        nearest: Option<&'static str>,
    },
    /// A configuration no network can have.
    #[error("model configuration: {0}")]
    Config(String),
    /// An image batch of the wrong shape.
    #[error("expected images (N, 3, H, W) with sides of at least one pixel, got shape {0:?}")]
    Input(Shape),
    /// A text that names none of the forms.
    #[error("unknown form `{0}`: expected a, b or c")]
    Form(String),
    /// Weights that do not fit the form they are said to have.
    #[error("{problem}: {name}")]
    Convert {
        /// The weight.
        name: String,
        /// What was expected and what is there.
        problem: String,
    },
    /// A file of weights that can't be read.
    #[error("{}: not a whole safetensors file: {reason}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        reason: String,
    },
    /// An operation failed.
    #[error(transparent)]
    Op(#[from] resnext_ops::Error),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
