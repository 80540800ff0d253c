//! Every kernel against the definition of a convolution, on integers that it computes with exactly.
//!
//! The definition is nested loops over integers (`definition.rs`). The kernels are those of inference and training, which
//! are called as networks call them; the process has one instruction set, so another one takes another process.

mod definition;
mod inference;
mod integers;
mod network;
mod proofs;
mod shapes;
mod training;

pub(super) use definition::{Definition, Product};
pub(super) use integers::{Integers, Range, of_integers};
pub use network::{FusedProof, fused_network};
pub use proofs::KernelProof;

use super::stack::generator;
use crate::error::Result;
use proofs::Proofs;
use shapes::Place;

/// Proves the kernels that this process uses, on every layer of `networks` and on `random` more shapes, until a wrong
/// kernel would pass with a probability of at most `bound` on each. Calls `progress` with each shape.
///
/// # Errors
/// If a network has no such name, or an operation fails.
pub fn kernels(
    networks: &[&str],
    random: usize,
    bound: f64,
    seed: u64,
    mut progress: impl FnMut(&str),
) -> Result<Vec<KernelProof>> {
    let mut rng = generator(seed);
    let layers = shapes::layers(networks)?.into_iter().map(Some);
    let mut proofs = Proofs::default();
    for layer in layers.chain(std::iter::repeat_n(None, random)) {
        let (place, definition) = match layer {
            Some(layer) => shapes::on_random_map(&mut rng, layer),
            None => (Place::Inner, shapes::random(&mut rng)),
        };
        progress(&definition.to_string());
        let kernels = [training::kernels(&definition)?, inference::kernels(place, &definition)?].concat();
        let range = Range::exact(&definition, &kernels);
        // Every result is a polynomial of degree 2 in the operands, which are drawn from so many integers.
        let miss = 2.0 / range.count() as f64;
        let mut passes = 1.0;
        while passes > bound {
            let integers = Integers::draw(&definition, range, &mut rng);
            training::compare(&definition, &integers, &mut proofs)?;
            inference::compare(place, &definition, &integers, &mut proofs)?;
            if place == Place::Inner {
                inference::compare_int8(&definition, &mut rng, &mut proofs)?;
            }
            passes *= miss;
        }
        proofs.end_of_shape(range.most, passes);
    }
    Ok(proofs.found.into_values().map(|(proof, _)| proof).collect())
}

/// The number of different layers of some networks, which is the number of shapes that [`kernels`] adds to the random ones.
///
/// # Errors
/// If a network has no such name.
pub fn layer_count(networks: &[&str]) -> Result<usize> {
    Ok(shapes::layers(networks)?.len())
}
