//! The description in a weights file: everything beside the weights that their use requires.

use crate::architecture::Architecture;
use crate::config::{Config, Shortcut};
use crate::error::json_problem;
use crate::preprocessing::Preprocessing;
use serde::{Deserialize, Serialize};

/// How the network in a weights file is used: what its images look like, and what its classes are called.
///
/// It is stored as JSON under [`Description::KEY`] in the metadata of a safetensors file, and in the
/// `metadata_props` of an ONNX file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// How images are prepared.
    pub preprocessing: Preprocessing,
    /// The name of each class, if they have names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// The network.
    pub network: Architecture,
}

impl Description {
    /// The key of a description in the metadata of a file.
    pub const KEY: &str = "resnext-description";

    /// The description as JSON, as files store it.
    pub fn to_json(&self) -> String {
        // Plain structures with text keys cannot fail; a number that JSON lacks becomes null.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a description from its JSON, and checks that it is one of `network`.
    ///
    /// # Errors
    /// A text that says what is wrong: JSON of another kind, another network, a number that is out of range,
    /// or another number of names than classes.
    pub fn from_json(text: &str, network: &Architecture) -> Result<Self, String> {
        let found: Description =
            serde_json::from_str(text).map_err(|e| format!("{}: {}", Self::KEY, json_problem(&e)))?;
        let same = match (&found.network, network) {
            (Architecture::ResNext(found), Architecture::ResNext(config)) => same_weights(found, config),
            (found, network) => found == network,
        };
        if !same {
            return Err(format!("{} is of another network than the weights", Self::KEY));
        }
        let classes = network.classes();
        let named = found.class_names.as_ref().map_or(classes, Vec::len);
        if named != classes {
            return Err(format!("{} has {named} class names, expected {classes}", Self::KEY));
        }
        found.preprocessing.check().map_err(|problem| format!("{}: {problem}", Self::KEY))?;
        Ok(found)
    }
}

/// Whether weights that show a network of `config` may be of the network `found`.
fn same_weights(found: &Config, config: &Config) -> bool {
    // Initialisation and block form do not change the function, and `convert` changes the form. Where no
    // block has a projection, the weights do not show that there would be one, or no shortcut at all.
    let Config { zero_init_last, form, shortcut, .. } = *config;
    let expected = Config { zero_init_last, form, shortcut, ..found.clone() };
    let projected_but_plain = shortcut == Shortcut::Projection && found.shortcut == Shortcut::None;
    expected == *config && !projected_but_plain
}
