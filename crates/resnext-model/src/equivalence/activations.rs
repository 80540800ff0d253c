//! Exact equality with batch norm and ReLU in place (theorem 2 of `docs/equivalence.md`).

use super::stack::{Stack, Tamper, generator, tensor, untampered};
use super::tally::Tally;
use crate::error::Result;
use crate::mode::Mode;
use candle_core::{DType, Device};
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// Compares the forms of a single block in evaluation mode, with batch norm and ReLU, in f64, at `trials`
/// random points.
///
/// Scales are powers of two, and means, biases and everything else are small integers. So every intermediate
/// number is an integer below 2^53, and the forms must agree to the last bit, although they are no longer
/// polynomials. The gradients of batch norm's parameters are compared as well.
///
/// # Errors
/// If an operation fails.
pub fn activations(stack: &Stack, device: &Device, trials: usize, seed: u64) -> Result<Tally> {
    let mut rng = generator(seed);
    let mut tally = Tally::default();
    for _ in 0..trials {
        tally.merge(trial(stack, device, &mut rng, &untampered)?);
    }
    Ok(tally)
}

/// Variances whose inverse square root is 1 and 2 after batch norm has added its eps of 1e-5.
const VARIANCES: [f64; 2] = [1.0 - 1e-5, 0.25 - 1e-5];

/// One random point.
pub(super) fn trial(stack: &Stack, device: &Device, rng: &mut ChaCha8Rng, tamper: Tamper) -> Result<Tally> {
    let mut draw = |name: &str, count: usize| -> Vec<f64> {
        let batch_norm = name.contains("bn") || name.contains("downsample.1");
        let choices: &[f64] = match name.rsplit('.').next() {
            Some("weight") if batch_norm => &[1.0, 2.0, -1.0, -2.0],
            Some("running_var") => &VARIANCES,
            // With magnitudes of at most 2, the sums in the largest block tested stay below 2^50.
            _ => &[0.0, 1.0, -1.0, 2.0, -2.0],
        };
        (0..count).map(|_| choices.choose(rng).copied().unwrap_or(1.0)).collect()
    };
    let weights = stack.draw(DType::F64, device, &mut draw)?;
    let shape = stack.input(1)?;
    let x = tensor(draw("input", shape.elem_count()), &shape, DType::F64, device)?;
    let shape = stack.output(&shape)?;
    let g = tensor(draw("gradient", shape.elem_count()), shape, DType::F64, device)?;
    stack.compare(&weights, &x, &g, Mode::Eval, tamper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variances_have_powers_of_two_as_inverse_roots() {
        assert_eq!(VARIANCES.map(|var| 1.0 / (var + 1e-5f64).sqrt()), [1.0, 2.0]);
    }
}
