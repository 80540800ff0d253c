//! Mixed precision, by the name it has in recipes.

use crate::Error;
use candle_core::DType;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What training computes convolutions, activations and their gradients in. Weights, the optimizer's state, batch
/// norm's statistics and the loss are f32 all the same, and so is evaluation.
///
/// f16 is not among them: its gradients would need a scaled loss, which bf16, with f32's exponents, does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Amp {
    /// f32.
    #[default]
    Off,
    /// bf16, summed in f32.
    Bf16,
}

impl Amp {
    /// The type beside f32, if there is one.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Amp::Off => None,
            Amp::Bf16 => Some(DType::BF16),
        }
    }
}

impl fmt::Display for Amp {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Amp::Off => "off",
            Amp::Bf16 => "bf16",
        })
    }
}

impl FromStr for Amp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let all = [Amp::Off, Amp::Bf16];
        let named = all.into_iter().find(|amp| amp.to_string() == text);
        named.ok_or_else(|| Error::Config(format!("mixed precision is off or bf16, not `{text}`")))
    }
}
