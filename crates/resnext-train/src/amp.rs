//! Mixed precision, by its name in recipes and on the command line.

use crate::error::Error;
use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The precision of training's feature maps, convolutions and their gradients. Weights, the optimizer's
/// state, batch norm's statistics and the loss are always f32, and so is evaluation.
///
/// There is no f16: its small exponent range would need loss scaling. bf16 has the range of f32 and does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Amp {
    /// Everything in f32.
    #[default]
    Off,
    /// Feature maps and their gradients in bf16; sums in f32.
    Bf16,
    /// Feature maps in f32; CUDA's tensor cores may round the factors of products to TF32, with 10 fraction
    /// bits. CUDA only.
    Tf32,
}

impl Amp {
    /// The type of feature maps, where it is not f32.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Amp::Off | Amp::Tf32 => None,
            Amp::Bf16 => Some(DType::BF16),
        }
    }

    /// Checks that `device` supports this mode.
    ///
    /// # Errors
    /// For TF32 on a device other than CUDA.
    pub(crate) fn check(self, device: &Device) -> Result<(), Error> {
        if self == Amp::Tf32 && !device.is_cuda() {
            let message = "mixed precision tf32 needs a CUDA device; other devices support off and bf16";
            return Err(Error::Config(message.into()));
        }
        Ok(())
    }

    /// Runs `f` with TF32 allowed in f32 convolutions on CUDA exactly if this is [`Amp::Tf32`].
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
