//! Gaussian random numbers.

use rand::{Rng, RngExt};
use std::f64::consts::TAU;

/// A number of mean 0 and deviation 1, by Box and Muller's formula.
pub(crate) fn gaussian(rng: &mut impl Rng) -> f64 {
    // From (0, 1], so that the logarithm is finite.
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}
