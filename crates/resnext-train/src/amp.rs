//! Mixed precision, by the name it has in recipes.

use crate::Error;
use candle_core::{DType, Device};
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
    /// f32, whose products CUDA's tensor cores may make of numbers rounded to TF32: 10 bits of fraction.
    Tf32,
}

impl Amp {
    /// The type beside f32, if there is one.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Amp::Off | Amp::Tf32 => None,
            Amp::Bf16 => Some(DType::BF16),
        }
    }

    /// # Errors
    /// If `device` can't compute so.
    pub(crate) fn check(self, device: &Device) -> Result<(), Error> {
        if self == Amp::Tf32 && !device.is_cuda() {
            let message =
                "tf32 is a way CUDA devices multiply; on other devices mixed precision is off or bf16";
            return Err(Error::Config(message.into()));
        }
        Ok(())
    }

    /// Runs `f`, some training, whose convolutions of f32 may be TF32's only if this is.
    pub(crate) fn during<T>(self, f: impl FnOnce() -> T) -> T {
        #[cfg(feature = "cuda")]
        return resnext_ops::cuda::with_tf32(self == Amp::Tf32, f);
        #[cfg(not(feature = "cuda"))]
        f()
    }
}

impl fmt::Display for Amp {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Amp::Off => "off",
            Amp::Bf16 => "bf16",
            Amp::Tf32 => "tf32",
        })
    }
}

impl FromStr for Amp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let all = [Amp::Off, Amp::Bf16, Amp::Tf32];
        let named = all.into_iter().find(|amp| amp.to_string() == text);
        named.ok_or_else(|| Error::Config(format!("mixed precision is off, bf16 or tf32, not `{text}`")))
    }
}
