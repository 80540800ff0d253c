//! What can be wrong with a configuration or an input.

use candle_core::Shape;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model has this name.
    #[error("unknown model `{name}`{}; known: {}; or any resnext{{11,20,29,50,101,152,200}}_CxDd, such as resnext50_16x8d",
        nearest.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default(), known.join(", "))]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// The preset with the most similar name.
        nearest: Option<&'static str>,
        /// All presets.
        known: &'static [&'static str],
    },
    /// A configuration no network can have.
    #[error("model configuration: {0}")]
    Config(String),
    /// An image batch of the wrong shape.
    #[error("expected images (N, 3, H, W) with sides of at least one pixel, got shape {0:?}")]
    Input(Shape),
    /// Ranges of maps that don't do for a network in eight bits.
    #[error("calibration: {0}")]
    Calibration(String),
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
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        reason: String,
    },
    /// A weight that can't be used.
    #[error("{problem}: {name} in {}", path.display())]
    Weight {
        /// The file.
        path: std::path::PathBuf,
        /// The weight.
        name: String,
        /// What was expected and what is there.
        problem: String,
    },
    /// A file whose weights are not those of the network.
    #[error("{} does not fit the network: {problem}", path.display())]
    Mismatch {
        /// The file.
        path: std::path::PathBuf,
        /// Missing, unexpected or misshapen weights.
        problem: String,
    },
    /// Weights of a network this crate doesn't have.
    #[error(
        "{}: expected a ResNet or ResNeXt, as torchvision's; file has {what}",
        path.display()
    )]
    Unsupported {
        /// The file.
        path: std::path::PathBuf,
        /// What gave it away.
        what: String,
    },
    /// A `config.json` that does not describe the weights.
    #[error("{}: {problem}", path.display())]
    ConfigFile {
        /// The file.
        path: std::path::PathBuf,
        /// What was expected and what is there.
        problem: String,
    },
    /// The hub has, or gives, no such file.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::hub::error::HubError),
    /// An operation failed.
    #[error(transparent)]
    Op(#[from] resnext_ops::Error),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
