//! The errors of this crate.

use candle_core::Shape;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model has this name.
    #[error("unknown model `{name}`{}; known: {}; or any resnext{{11,20,29,50,101,152,200}}_CxDd, \
        such as resnext50_16x8d",
        nearest.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default(), known.join(", "))]
    UnknownModel {
        /// The unknown name.
        name: String,
        /// The preset with the most similar name.
        nearest: Option<&'static str>,
        /// All presets.
        known: &'static [&'static str],
    },
    /// A configuration or setting that no network can have.
    #[error("model configuration: {0}")]
    Config(String),
    /// An image batch of the wrong shape.
    #[error("expected images (N, 3, H, W) with sides of at least one pixel, got shape {0:?}")]
    Input(Shape),
    /// Ranges of feature maps from which no int8 network can be built, or a network that cannot be
    /// calibrated.
    #[error("calibration: {0}")]
    Calibration(String),
    /// A text that does not name a form.
    #[error("unknown form `{0}`: expected a, b or c")]
    Form(String),
    /// Weights that do not have the form they should have, or that another form or type cannot express.
    #[error("{problem}: {name}")]
    Convert {
        /// The weight.
        name: String,
        /// The expected and the found value.
        problem: String,
    },
    /// A file of weights that cannot be read.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
    /// A weight that cannot be used.
    #[error("{problem}: {name} in {}", path.display())]
    Weight {
        /// The file.
        path: std::path::PathBuf,
        /// The weight.
        name: String,
        /// The expected and the found value.
        problem: String,
    },
    /// A file whose weights are not exactly those of the network.
    #[error("{} does not fit the network: {problem}", path.display())]
    Mismatch {
        /// The file.
        path: std::path::PathBuf,
        /// The weights of the wrong shape, the missing and the unexpected.
        problem: String,
    },
    /// Weights of a network that this crate does not implement.
    #[error(
        "{}: expected a ResNet or ResNeXt, as torchvision's or timm's; file has {what}",
        path.display()
    )]
    Unsupported {
        /// The file.
        path: std::path::PathBuf,
        /// The part of the network that is different, and the weight that shows it.
        what: String,
    },
    /// A `config.json` that does not describe the weights.
    #[error("{}: {problem}", path.display())]
    ConfigFile {
        /// The file.
        path: std::path::PathBuf,
        /// The expected and the found value.
        problem: String,
    },
    /// A file that cannot be downloaded from the Hugging Face Hub.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::hub::error::HubError),
    /// An operation of `resnext-ops` failed.
    #[error(transparent)]
    Op(#[from] resnext_ops::Error),
    /// An operation of candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// The fault in a JSON text, in JSON's words instead of Rust's, and in one line whatever names the text has.
pub fn json_problem(error: &serde_json::Error) -> String {
    const WORDS: [(&str, &str); 16] = [
        ("expected usize", "expected an integer of at least 0"),
        ("struct HashMetadata", "an object of tensors"),
        ("struct TensorInfo", "an object with type, shape and offsets"),
        ("struct Index with 1 element", "an object"),
        ("struct Index", "an object"),
        ("invalid type: sequence", "invalid type: list"),
        ("invalid type: map", "invalid type: object"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected an object"),
        ("a tuple of size", "a list of length"),
        ("an array of length", "a list of length"),
        ("floating point `", "number `"),
        ("expected f32", "expected a number"),
        ("expected f64", "expected a number"),
        ("EOF while parsing a value", "the text ends where a value is expected,"),
        ("EOF while parsing", "the text ends within"),
    ];
    let text = WORDS.iter().fold(error.to_string(), |text, (rust, json)| text.replace(rust, json));
    let shown = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}
