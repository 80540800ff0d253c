//! The modes in which a network computes.

use crate::error::{Error, Result};
use candle_core::DType;

/// The functions that a network computes between its convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Training: batch norm with the statistics of this batch, which also update the running ones, and ReLU.
    Train,
    /// Evaluation: batch norm with the running statistics, and ReLU.
    Eval,
    /// Neither batch norm nor ReLU, so that a block is a polynomial of its input and weights, computed modulo
    /// an odd prime. The exact proof in [`equivalence`](crate::equivalence) uses it.
    Polynomial {
        /// The prime.
        modulus: u32,
    },
    /// A random function of each channel in the place of batch norm and of ReLU, modulo an odd prime: section 3 of
    /// `docs/equivalence.md`. A batch norm's parameters, which must be integers, name its functions.
    ChannelFunctions {
        /// The prime.
        modulus: u32,
    },
}

/// Checks that feature maps can be of type `maps` in training, beside weights of type `weights`.
///
/// # Errors
/// If the weights are not F32, or `maps` is neither BF16 nor F16.
pub(crate) fn check_mixed_precision(maps: Option<DType>, weights: DType) -> Result<()> {
    match maps {
        Some(dtype) if !(matches!(dtype, DType::BF16 | DType::F16) && weights == DType::F32) => {
            let problem = format!(
                "mixed precision is BF16 or F16 beside F32 weights, not {dtype:?} beside {weights:?}"
            );
            Err(Error::Config(problem))
        }
        _ => Ok(()),
    }
}
