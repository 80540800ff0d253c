//! Exact equality of the three forms as polynomials (theorem 1 of `docs/equivalence.md`).

use super::stack::{Stack, generator, tensor, untampered};
use super::tally::{Difference, Tally};
use crate::config::{BlockSize, Form};
use crate::convert::Tensors;
use crate::error::{Error, Result};
use crate::mode::Mode;
use candle_core::{DType, Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// The verdict on one stack of blocks.
#[derive(Debug, Clone, Serialize)]
pub struct Identity {
    /// Independent random points at which the forms were compared.
    pub trials: usize,
    /// The largest degree of the polynomials.
    pub degree: usize,
    /// The smallest set that coordinates of a point were drawn from, and the prime computed by.
    pub smallest_set: u32,
    /// The chance that unequal polynomials agree at all points: the product of degree/set over the trials.
    pub bound: f64,
    /// What was compared: outputs and all gradients, of forms (a) and (b) with (c).
    pub tally: Tally,
}

impl Identity {
    /// Where the forms first differ, if they do.
    pub fn difference(&self) -> Option<&Difference> {
        self.tally.first.as_ref()
    }
}

/// Compares the forms of `stack` as polynomials of its input, weights and the output's gradient, at
/// random points, until unequal ones would agree with a chance of at most `bound`.
///
/// A trial draws integers modulo a prime of its own, small enough that every sum in the kernels, in any
/// order, is an integer that `dtype` holds exactly. `dtype` is f64, or f32 for single blocks.
///
/// # Errors
/// If `dtype` is too narrow for the block's sums, or an operation fails.
pub fn identity(stack: &Stack, dtype: DType, device: &Device, bound: f64, seed: u64) -> Result<Identity> {
    let degree = degree(stack);
    let mut primes = primes(stack, dtype)?;
    let mut verdict =
        Identity { trials: 0, degree, smallest_set: u32::MAX, bound: 1.0, tally: Tally::default() };
    let mut rng = generator(seed);
    while verdict.bound > bound {
        // Of a set no larger than the degree a trial says nothing.
        let modulus = primes.next().filter(|&p| p as usize > degree).ok_or_else(|| {
            Error::Config(format!("{dtype:?} is too narrow to prove {} exactly", stack.name))
        })?;
        verdict.tally.merge(trial(stack, dtype, device, modulus, &mut rng, &untampered)?);
        verdict.bound *= degree as f64 / modulus as f64;
        verdict.smallest_set = verdict.smallest_set.min(modulus);
        verdict.trials += 1;
    }
    Ok(verdict)
}

/// One random point.
pub(super) fn trial(
    stack: &Stack,
    dtype: DType,
    device: &Device,
    modulus: u32,
    rng: &mut ChaCha8Rng,
    tamper: &dyn Fn(Form, &mut Tensors) -> Result<()>,
) -> Result<Tally> {
    let most = (modulus / 2) as i64;
    let mut draw =
        |count: usize| -> Vec<f64> { (0..count).map(|_| rng.random_range(-most..=most) as f64).collect() };
    let weights = stack.draw(dtype, device, |_, count| draw(count))?;
    let shape = stack.input(BATCH)?;
    let x = tensor(draw(shape.elem_count()), &shape, dtype, device)?;
    let shape = stack.output(&shape)?;
    let g: Tensor = tensor(draw(shape.elem_count()), shape, dtype, device)?;
    stack.compare(&weights, &x, &g, Mode::Polynomial { modulus }, tamper)
}

/// Maps a trial runs on.
const BATCH: usize = 2;

/// Every block multiplies its input by three weights; a gradient has the output's in place of one factor.
fn degree(stack: &Stack) -> usize {
    3 * stack.blocks.len() + 1
}

/// The primes a trial may compute by, the largest first: with K the longest sum of products in any
/// kernel and residues up to h = (p - 1)/2, K·h² must stay within the integers `dtype` holds.
pub(super) fn primes(stack: &Stack, dtype: DType) -> Result<impl Iterator<Item = u32> + use<>> {
    let exact = match dtype {
        // One bit is left for the division by the modulus, which rounds; f32 is divided in f64.
        DType::F64 => 52,
        DType::F32 => 24,
        other => return Err(Error::Config(format!("expected f32 or f64, got {other:?}"))),
    };
    let pixels = BATCH * stack.map.0 * stack.map.1;
    let longest = |(_, size): &(String, BlockSize)| {
        // Forward: 1×1, 3×3. Backward: the 1×1's input, which the shortcut's gradient is added to; the
        // weights' gradients, sums over pixels.
        let &BlockSize { input, path, output, .. } = size;
        [input, 9 * path, size.inner() + output, pixels].into_iter().max().unwrap_or(1)
    };
    let longest = stack.blocks.iter().map(longest).max().unwrap_or(1);
    let half = ((1u64 << exact) as f64 / longest as f64).sqrt().floor() as u32;
    Ok((3..=2 * half + 1).rev().step_by(2).filter(|&n| is_prime(n)))
}

fn is_prime(n: u32) -> bool {
    n > 1 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn primes_leave_every_sum_exact() {
        assert_eq!(
            (1..30).filter(|&n| is_prime(n)).collect::<Vec<_>>(),
            [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
        );
        for name in ["resnext50_32x4d", "resnext29_16x64d", "resnext11_3x1d"] {
            for stack in Stack::distinct_blocks(&Config::by_name(name).unwrap()) {
                for (dtype, exact) in [(DType::F32, 1u64 << 24), (DType::F64, 1 << 53)] {
                    let p = primes(&stack, dtype).unwrap().next().unwrap() as u64;
                    let size = stack.first().unwrap();
                    let longest = size.input.max(9 * size.path).max(size.inner() + size.output) as u64;
                    assert!(is_prime(p as u32) && longest * (p / 2) * (p / 2) <= exact, "{name}: {p}");
                }
            }
        }
    }
}
