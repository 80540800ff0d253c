//! Exact equality of the forms: as polynomials (theorem 1 of `docs/equivalence.md`), and with every function of single
//! channels in the place of batch norm and ReLU (theorem 2).

use super::stack::{Stack, Tamper, generator, tensor, untampered};
use super::tally::{Difference, Tally};
use crate::config::BlockSize;
use crate::error::{Error, Result};
use crate::mode::Mode;
use crate::random_function::collision;
use candle_core::{DType, Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use resnext_ops::{Conv2dConfig, ConvKernel, conv2d_kernels};
use serde::Serialize;

/// The result of a comparison of the forms at random points.
#[derive(Debug, Clone, Serialize)]
pub struct Identity {
    /// The number of independent random points at which the forms were compared.
    pub trials: usize,
    /// The numerator of the probability that a trial misses a difference: the degree of the polynomials, and with functions
    /// of channels also what their collisions add.
    pub degree: usize,
    /// The smallest prime that was used: the size of the set from which the coordinates of a point were
    /// drawn.
    pub smallest_set: u32,
    /// The upper bound on the probability that different functions agree at all points: the product of
    /// degree/prime over all trials.
    pub bound: f64,
    /// The comparison of forms (a) and (b) with form (c): outputs and all gradients.
    pub tally: Tally,
}

impl Identity {
    /// The first difference between the forms, if there is one.
    pub fn difference(&self) -> Option<&Difference> {
        self.tally.first.as_ref()
    }
}

/// Compares the forms of `stack` as polynomials of its input, its weights and the gradient of its output, at
/// random points, until different polynomials would agree with a probability of at most `bound`.
///
/// Each trial computes modulo another prime, which is small enough that every sum in the kernels, in any
/// order, is an integer that `dtype` represents exactly. `dtype` is f64, or f32 for single blocks.
///
/// # Errors
/// [`Error::Config`] if `dtype` is too narrow for the sums of these blocks; or if an operation fails.
pub fn identity(stack: &Stack, dtype: DType, device: &Device, bound: f64, seed: u64) -> Result<Identity> {
    compare(stack, dtype, device, bound, seed, Kind::Polynomials)
}

/// Compares the forms like [`identity`], with a random function of each channel in the place of every batch norm and ReLU,
/// and of their derivatives. Functions act on a channel as a whole, as batch norm does in training, and each batch norm has
/// its own.
///
/// Forms that are equal here are equal for every function of single channels, so for batch norm in both of its modes
/// and for ReLU, and as polynomials too. The bound is derived in section 3 of `docs/equivalence.md`.
///
/// # Errors
/// The errors of [`identity`], and if the device has no kernels of this project.
pub fn channel_functions(
    stack: &Stack,
    dtype: DType,
    device: &Device,
    bound: f64,
    seed: u64,
) -> Result<Identity> {
    compare(stack, dtype, device, bound, seed, Kind::Functions)
}

/// The functions between convolutions.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Polynomials,
    Functions,
}

impl Kind {
    pub(super) fn mode(self, modulus: u32) -> Mode {
        match self {
            Kind::Polynomials => Mode::Polynomial { modulus },
            Kind::Functions => Mode::ChannelFunctions { modulus },
        }
    }

    /// The numerator of the probability that a trial misses a difference.
    fn degree(self, stack: &Stack) -> usize {
        let blocks = stack.blocks.len();
        match self {
            // Each block multiplies its input by three weights. A gradient has the output's gradient in place of one
            // factor.
            Kind::Polynomials => 3 * blocks + 1,
            // Three weights and four derivatives, of two factors each, per block; and layer l of 4 per block takes a
            // collision of two arguments, whose probability is at most 2l/p.
            Kind::Functions => 11 * blocks + 2 + 4 * blocks * (4 * blocks + 1),
        }
    }
}

fn compare(
    stack: &Stack,
    dtype: DType,
    device: &Device,
    bound: f64,
    seed: u64,
    kind: Kind,
) -> Result<Identity> {
    let degree = kind.degree(stack);
    // Two arguments may have one digest, in each of the layers of functions.
    let digests = match kind {
        Kind::Polynomials => 0.0,
        Kind::Functions => 4.0 * stack.blocks.len() as f64 * collision(BATCH * stack.map.0 * stack.map.1),
    };
    let mut primes = primes(stack, dtype)?;
    let mut verdict =
        Identity { trials: 0, degree, smallest_set: u32::MAX, bound: 1.0, tally: Tally::default() };
    let mut rng = generator(seed);
    while verdict.bound > bound {
        // A trial with a prime no larger than the degree would prove nothing.
        let modulus = primes.next().filter(|&p| p as usize > degree).ok_or_else(|| {
            Error::Config(format!("{dtype:?} is too narrow to prove {} exactly", stack.name))
        })?;
        verdict.tally.merge(trial(stack, dtype, device, (kind, modulus), &mut rng, &untampered)?);
        verdict.bound *= degree as f64 / modulus as f64 + digests;
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
    (kind, modulus): (Kind, u32),
    rng: &mut ChaCha8Rng,
    tamper: Tamper,
) -> Result<Tally> {
    let mut draw = |count: usize| residues(rng, modulus, count);
    let weights = stack.draw(dtype, device, |_, count| draw(count))?;
    let shape = stack.input(BATCH)?;
    let x = tensor(draw(shape.elem_count()), &shape, dtype, device)?;
    let shape = stack.output(&shape)?;
    let g: Tensor = tensor(draw(shape.elem_count()), shape, dtype, device)?;
    stack.compare(&weights, &x, &g, kind.mode(modulus), tamper)
}

/// Random residues of magnitude up to (modulus - 1)/2. Each part has a stream of its own, so that threads share the work.
fn residues(rng: &mut ChaCha8Rng, modulus: u32, count: usize) -> Vec<f64> {
    const PART: usize = 1 << 14;
    let (half, seed) = ((modulus / 2) as i32, rng.random());
    let mut all = vec![0.0; count];
    all.par_chunks_mut(PART).enumerate().for_each(|(i, part)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(i as u64);
        part.iter_mut().for_each(|x| *x = f64::from(rng.random_range(-half..=half)));
    });
    all
}

/// The batch size of a trial.
const BATCH: usize = 2;

/// The primes that trials may use, largest first. With K the number of products in the longest sum of any
/// kernel, and residues of magnitude up to h = (p - 1)/2, K·h² must be an integer that `dtype` represents
/// exactly. Winograd's 3×3 has larger sums, in quarters, which must be exact as well.
pub(super) fn primes(stack: &Stack, dtype: DType) -> Result<impl Iterator<Item = u32> + use<>> {
    let exact = match dtype {
        // One bit is left for the division by the modulus, which rounds. Values of f32 are divided in f64.
        DType::F64 => 52,
        DType::F32 => 24,
        other => return Err(Error::Config(format!("expected f32 or f64, got {other:?}"))),
    };
    let pixels = BATCH * stack.map.0 * stack.map.1;
    // Winograd's partial sums are at most 12·G·h² in quarters, with G channels per group: section 5 of
    // `docs/equivalence.md`. They are not divided, so in f64 they may take the bit that is left for that.
    let quarters = if dtype == DType::F64 { 24 } else { 48 };
    let longest = |(_, size): &(String, BlockSize)| -> Result<usize> {
        // In the forward pass, the 1×1 and the 3×3; in the backward pass, the input's gradient of the first
        // 1×1, to which the shortcut's is added, and the weights' gradients, which are sums over pixels.
        let &BlockSize { input, path, output, .. } = size;
        let tiles = if by_winograd(size, stack.map, dtype)? { quarters * path } else { 1 };
        Ok([input, 9 * path, size.inner() + output, pixels, tiles].into_iter().max().unwrap_or(1))
    };
    let longest = stack.blocks.iter().map(longest).try_fold(1, |most, one| one.map(|one| most.max(one)))?;
    let half = ((1u64 << exact) as f64 / longest as f64).sqrt().floor() as u32;
    Ok((3..=2 * half + 1).rev().step_by(2).filter(|&n| is_prime(n)))
}

/// Whether a CPU computes a block's 3×3 by Winograd's F(2×2, 3×3), in groups or path by path.
fn by_winograd(size: &BlockSize, map: (usize, usize), dtype: DType) -> Result<bool> {
    for conv in size.convs().into_iter().filter(|conv| conv.kernel == 3) {
        for (groups, paths) in [(conv.groups, 1), (1, conv.groups)] {
            let (input, output) = (conv.input / paths, conv.output / paths);
            let zeros = |dims: [usize; 4]| Tensor::zeros(&dims[..], dtype, &Device::Cpu);
            let config = Conv2dConfig { stride: conv.stride, padding: 1, dilation: 1, groups };
            let (x, weight) = (zeros([BATCH, input, map.0, map.1])?, zeros([output, input / groups, 3, 3])?);
            if conv2d_kernels(&x, &weight, &config)?.contains(&ConvKernel::WinogradTiles) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

pub(super) fn is_prime(n: u32) -> bool {
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
        let mut winograd = false;
        for name in ["resnext50_32x4d", "resnext29_16x64d", "resnext11_3x1d"] {
            for stack in Stack::distinct_blocks(&Config::by_name(name).unwrap()) {
                for (dtype, exact) in [(DType::F32, 1u64 << 24), (DType::F64, 1 << 53)] {
                    let p = primes(&stack, dtype).unwrap().next().unwrap() as u64;
                    let size = stack.first().unwrap();
                    let longest = size.input.max(9 * size.path).max(size.inner() + size.output) as u64;
                    let largest = (p / 2) * (p / 2);
                    assert!(is_prime(p as u32) && longest * largest <= exact, "{name}: {p}");
                    // 12·h² per channel of a group, in quarters.
                    let tiles = 48 * size.path as u64 * largest;
                    let has_tiles = by_winograd(size, stack.map, dtype).unwrap();
                    assert!(tiles <= exact || !has_tiles, "{name}: {p}");
                    winograd |= has_tiles;
                }
            }
        }
        assert!(winograd, "no block is computed by Winograd's tiles");
    }

    /// f32 is wide enough for the single blocks that `prove` tries in it.
    #[test]
    fn there_are_primes_enough_for_every_block() {
        for name in ["resnext50_32x4d", "resnext29_8x64d", "resnext29_16x64d", "resnext20_8x4d"] {
            for stack in Stack::distinct_blocks(&Config::by_name(name).unwrap()) {
                let degree = Kind::Polynomials.degree(&stack);
                let primes = primes(&stack, DType::F32).unwrap().take_while(|&p| p as usize > degree);
                let bound: f64 = primes.map(|p| degree as f64 / f64::from(p)).product();
                assert!(bound < 1e-15, "{name}, {}: {bound:e}", stack.name);
            }
        }
    }
}
