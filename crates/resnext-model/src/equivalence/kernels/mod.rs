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

pub(super) use definition::{Definition, Product, Sums};
pub(super) use integers::{Integers, Range};
pub use network::{FusedProof, fused_network, fused_types};
pub use proofs::KernelProof;

use super::stack::generator;
use crate::error::Result;
use inference::Int8Integers;
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
        let range = exact_range(place, &definition)?;
        // Every result is a polynomial of degree 2 in the operands, which are drawn from this number of integers.
        let miss = 2.0 / range.count() as f64;
        let mut passes = 1.0;
        while passes > bound {
            let integers = Integers::draw(&definition, range, &mut rng);
            let expected = Sums::new(&definition, &integers);
            compare(place, &definition, &integers, &expected, &mut proofs)?;
            if place == Place::Inner
                && let Some(integers) = Int8Integers::draw(&definition, &mut rng)
            {
                inference::compare_int8(&definition, &integers, &mut proofs)?;
            }
            passes *= miss;
        }
        proofs.end_of_shape(range.most, passes);
    }
    Ok(proofs.found.into_values().map(|(proof, _)| proof).collect())
}

/// The range of operands in which each of this machine's kernels is exact.
fn exact_range(place: Place, definition: &Definition) -> Result<Range> {
    let kernels = [training::kernels(definition)?, inference::kernels(place, definition)?].concat();
    Ok(Range::exact(definition, &kernels))
}

/// Compares this machine's kernels, of training and of inference, with `expected`.
fn compare(
    place: Place,
    definition: &Definition,
    integers: &Integers,
    expected: &Sums,
    proofs: &mut Proofs,
) -> Result<()> {
    training::compare(definition, integers, expected, proofs)?;
    inference::compare(place, definition, integers, &expected.y, proofs)
}

/// The range of operands in which each of this machine's kernels of an inner layer is exact.
pub(super) fn range(definition: &Definition) -> Result<Range> {
    exact_range(Place::Inner, definition)
}

/// Whether the comparison of [`kernels`] finds a difference between `expected` and any of this machine's kernels.
pub(super) fn differs(definition: &Definition, integers: &Integers, expected: &Sums) -> Result<bool> {
    let mut proofs = Proofs::default();
    compare(Place::Inner, definition, integers, expected, &mut proofs)?;
    Ok(proofs.found.values().any(|(proof, _)| proof.tally.bits > 0))
}

/// The number of different layers of some networks, which is the number of shapes that [`kernels`] adds to the random ones.
///
/// # Errors
/// If a network has no such name.
pub fn layer_count(networks: &[&str]) -> Result<usize> {
    Ok(shapes::layers(networks)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use resnext_ops::Conv2dConfig;

    /// Every kernel is compared on its own: a wrong number is found in each operation and type, wherever it is.
    #[test]
    fn a_wrong_sum_is_found_in_every_kernel() {
        let of = |input, output, side, kernel, groups| {
            let config = Conv2dConfig { padding: kernel / 2, groups, ..Conv2dConfig::default() };
            Definition { batch: 2, input, output, map: (side, side), kernel, config }
        };
        let layers = [
            (Place::First, of(3, 16, 5, 3, 1)),
            (Place::Inner, of(16, 16, 5, 3, 2)),
            (Place::Last, of(16, 10, 1, 1, 1)),
        ];
        for (place, definition) in layers {
            let mut rng = generator(1);
            let integers = Integers::draw(&definition, exact_range(place, &definition).unwrap(), &mut rng);
            let of_int8 = Int8Integers::draw(&definition, &mut rng).unwrap();
            let found = |expected: &Sums, of_int8: &Int8Integers| {
                let mut proofs = Proofs::default();
                compare(place, &definition, &integers, expected, &mut proofs).unwrap();
                inference::compare_int8(&definition, of_int8, &mut proofs).unwrap();
                proofs.found.into_values().map(|(proof, _)| proof).collect::<Vec<_>>()
            };
            let right = Sums::new(&definition, &integers);
            let proofs = found(&right, &of_int8);
            assert!(proofs.iter().all(|proof| proof.tally.bits == 0), "{proofs:?}");
            // Training in three types, forward and backward; inference in three types, alone and with a residual, and in two
            // of them with ReLU as well.
            assert_eq!(proofs.len(), 3 * 3 + 3 + 2, "{proofs:?}");
            let outputs = definition.y().elem_count() as u64;
            let runs = |proof: &KernelProof| match proof.operation.as_str() {
                "inference" => 2,
                _ => 1,
            };
            let inference = |proof: &&KernelProof| proof.operation.starts_with("inference");
            assert!(
                proofs.iter().filter(inference).all(|p| p.tally.numbers == runs(p) * outputs),
                "{proofs:?}"
            );
            // Small errors may be lost where results are rounded or cut off by ReLU.
            for (error, last) in [(1, false), (1, true), (1 << 20, false), (1 << 20, true)] {
                let wrong = |mut sums: Vec<i32>| {
                    let at = if last { sums.len() - 1 } else { 0 };
                    sums[at] += error;
                    sums
                };
                let Sums { y, of_x, of_weight } = right.clone();
                let sums = Sums { y: wrong(y), of_x: wrong(of_x), of_weight: wrong(of_weight) };
                let mut of_int8 = of_int8.clone();
                of_int8.sums = wrong(of_int8.sums);
                for proof in found(&sums, &of_int8) {
                    let may_be_lost = proof.bound.is_none();
                    assert!(proof.tally.bits > 0 || may_be_lost && error == 1, "{error}, {last}: {proof:?}");
                }
            }
        }
    }
}
