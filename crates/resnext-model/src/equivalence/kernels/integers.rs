//! The integers of a trial, and the range in which every kernel computes with them exactly.

use super::definition::{Definition, Sums};
use crate::error::Result;
use candle_core::{DType, Device, Shape, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use resnext_ops::ConvKernel;

/// Sums of integers up to this magnitude are exact in f32, and the conversion of an i32 to f32 is.
const EXACT: i64 = 1 << 24;

/// The largest operand. bf16 holds all integers up to 256.
const LARGEST: i64 = 127;

/// The magnitudes from which operands are drawn, with either sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::equivalence) struct Range {
    pub(in crate::equivalence) least: i64,
    pub(in crate::equivalence) most: i64,
}

impl Range {
    /// The number of integers in the range.
    pub(in crate::equivalence) fn count(self) -> i64 {
        match self.least {
            0 => 2 * self.most + 1,
            least => 2 * (self.most - least + 1),
        }
    }

    fn draw(self, rng: &mut ChaCha8Rng) -> i32 {
        let [least, most] = [self.least as i32, self.most as i32];
        let index = rng.random_range(0..self.count() as i32);
        let half = most - least + 1;
        // Without a second zero.
        if index < half { least + index } else { half - index - least.max(1) }
    }

    /// The largest range in which each of `kernels` computes a convolution and its gradients exactly in f32, with a bias
    /// and a residual of the same range: section 5 of `docs/equivalence.md` derives it.
    pub(in crate::equivalence) fn exact(definition: &Definition, kernels: &[ConvKernel]) -> Self {
        let longest = definition.longest_sum() as i64;
        let group = definition.group_in().max(definition.group_out()) as i64;
        // Pixels and weights are divided by their root mean square, rounded down to a power of two, which is 2^j if all
        // magnitudes are from 2^j to √2·2^j.
        if kernels.contains(&ConvKernel::InnerProducts) {
            let squares = |j: u32| 1i64 << (2 * j);
            let j = (0..=6).rev().find(|&j| (5 * longest + 4) * squares(j) <= EXACT).unwrap_or(0);
            let range = Range { least: 1 << j, most: (2 * squares(j) - 1).isqrt() };
            assert!(
                range.least >= 1 && (5 * longest + 4) * squares(j) <= EXACT,
                "{definition}: too long a sum"
            );
            return range;
        }
        // In quarters, a tile's partial sums are at most 4·12·a² per channel of a group.
        let tiles = if kernels.contains(&ConvKernel::WinogradTiles) { 48 * group } else { 0 };
        let units = longest.max(tiles) + 2;
        let most = (EXACT / units).isqrt().min(LARGEST);
        assert!(most >= 1 && units * most * most <= EXACT, "{definition}: too long a sum");
        Range { least: 0, most }
    }
}

/// The operands of one trial.
pub(in crate::equivalence) struct Integers {
    /// (N, Cin, H, W).
    pub(in crate::equivalence) x: Vec<i32>,
    /// (Cout, Cin/groups, k, k).
    pub(in crate::equivalence) weight: Vec<i32>,
    /// (Cout).
    pub(in crate::equivalence) bias: Vec<i32>,
    /// (N, Cout, H', W').
    pub(in crate::equivalence) residual: Vec<i32>,
    /// (N, Cout, H', W').
    pub(in crate::equivalence) gradient: Vec<i32>,
}

impl Sums {
    /// The definition's sums.
    pub(in crate::equivalence) fn new(definition: &Definition, integers: &Integers) -> Self {
        let Integers { x, weight, gradient, .. } = integers;
        Sums {
            y: definition.forward(x, weight),
            of_x: definition.input_gradient(gradient, weight),
            of_weight: definition.weight_gradient(x, gradient),
        }
    }
}

impl Integers {
    pub(in crate::equivalence) fn draw(definition: &Definition, range: Range, rng: &mut ChaCha8Rng) -> Self {
        let mut draw = |count: usize| (0..count).map(|_| range.draw(rng)).collect::<Vec<i32>>();
        let out = definition.y().elem_count();
        Integers {
            x: draw(definition.x().elem_count()),
            weight: draw(definition.weight().elem_count()),
            bias: draw(definition.output),
            residual: draw(out),
            gradient: draw(out),
        }
    }
}

/// A tensor of these integers, which are below 2^24 and so exact in f32. In bf16 they are rounded once, as a kernel rounds
/// its sums when it writes them.
pub(in crate::equivalence) fn of_integers(
    values: &[i32],
    shape: impl Into<Shape>,
    dtype: DType,
) -> Result<Tensor> {
    let values: Vec<f32> = values.par_iter().map(|&v| v as f32).collect();
    Ok(Tensor::from_vec(values, shape.into(), &Device::Cpu)?.to_dtype(dtype)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::equivalence::stack::generator;
    use resnext_ops::Conv2dConfig;

    #[test]
    fn operands_fill_their_range_and_no_more() {
        for range in [Range { least: 0, most: 3 }, Range { least: 4, most: 5 }] {
            let mut seen = std::collections::BTreeSet::new();
            let rng = &mut generator(1);
            seen.extend((0..200).map(|_| range.draw(rng)));
            assert_eq!(seen.len() as i64, range.count());
            let within = |v: &i32| (range.least..=range.most).contains(&i64::from(v.abs()));
            assert!(seen.iter().all(within), "{seen:?}");
        }
    }

    /// The largest sums of the range are exact, and those of the next larger range are not sure to be.
    #[test]
    fn ranges_are_as_large_as_is_exact() {
        let config = Conv2dConfig::default();
        let of = |input, kernel| Definition { batch: 1, input, output: 8, map: (9, 9), kernel, config };
        let plain = Range::exact(&of(2048, 1), &[ConvKernel::RegisterTiles]);
        assert_eq!(plain, Range { least: 0, most: 90 });
        assert_eq!(Range::exact(&of(8, 3), &[ConvKernel::RegisterTiles]).most, LARGEST);
        let tiles = Range::exact(&of(128, 3), &[ConvKernel::WinogradTiles, ConvKernel::RegisterTiles]);
        assert_eq!(tiles, Range { least: 0, most: 52 });
        let products = Range::exact(&of(2048, 1), &[ConvKernel::InnerProducts]);
        assert_eq!(products, Range { least: 32, most: 45 });
        // Every mean square is from 2^10 to 2^11, whose root rounded down to a power of two is 32.
        assert!(products.most.pow(2) < 2 * products.least.pow(2));
    }
}
