//! Random functions modulo a prime, which stand for batch norm and ReLU in proofs by exact arithmetic.
//!
//! A function maps a vector, such as all pixels of one channel, to a vector of the same length, and each key names
//! another function. Values are those of ChaCha8, seeded with the key and a digest of the argument, so that nothing
//! needs to be stored: equal arguments give equal values, and different ones give independent values.

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use resnext_ops::custom;

/// Names a function: different keys name independent functions.
pub(crate) type Key = [i32; 5];

/// One function, modulo an odd prime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RandomFunction {
    pub(crate) modulus: u32,
    pub(crate) key: Key,
}

/// The purpose of a stream of random numbers.
#[derive(Clone, Copy)]
enum Purpose {
    Point,
    Value,
    Derivative,
}

/// The residue of an integer of magnitude up to 2^52 modulo an odd prime, of magnitude up to (modulus - 1)/2. Exact, as in
/// `resnext_ops::modulo`.
pub(crate) fn residue(x: f64, modulus: u32) -> i64 {
    let modulus = f64::from(modulus);
    (x - modulus * (x / modulus).round()) as i64
}

/// The residue of `number` modulo an odd prime, of magnitude up to (modulus - 1)/2.
pub(crate) fn centred(number: i128, modulus: u32) -> i64 {
    let (modulus, half) = (i128::from(modulus), i128::from(modulus / 2));
    ((number + half).rem_euclid(modulus) - half) as i64
}

/// The prime of digests, 2^61 - 1.
const DIGEST_PRIME: u64 = (1 << 61) - 1;

/// The probability that two different vectors of this length have one digest.
pub(crate) fn collision(length: usize) -> f64 {
    (length + 1) as f64 / DIGEST_PRIME as f64
}

impl RandomFunction {
    /// The function's value at `argument`: residues of magnitude up to (modulus - 1)/2.
    pub(crate) fn value(&self, argument: &[i64]) -> Vec<i64> {
        let mut stream = self.stream(self.digest(argument), Purpose::Value);
        self.residues(&mut stream, argument.len())
    }

    /// The vector-Jacobian product of the function's derivative at `argument` with `gradient`, modulo the prime. The
    /// derivative is a random matrix of rank one: see section 3 of `docs/equivalence.md`.
    pub(crate) fn backward(&self, argument: &[i64], gradient: &[i64]) -> Vec<i64> {
        let mut stream = self.stream(self.digest(argument), Purpose::Derivative);
        let left = self.residues(&mut stream, gradient.len());
        let right = self.residues(&mut stream, argument.len());
        // Magnitudes are below 2^32 in i128, so nothing overflows.
        let sum = left.iter().zip(gradient).map(|(&u, &g)| i128::from(u) * i128::from(g)).sum::<i128>();
        let sum = sum.rem_euclid(i128::from(self.modulus)) as i64;
        right.iter().map(|&v| centred(i128::from(v) * i128::from(sum), self.modulus)).collect()
    }

    fn residues(&self, stream: &mut ChaCha8Rng, count: usize) -> Vec<i64> {
        // 32 bits hold every residue, and take half as many random numbers as 64.
        let half = (self.modulus / 2) as i32;
        (0..count).map(|_| i64::from(stream.random_range(-half..=half))).collect()
    }

    /// A polynomial whose coefficients are the argument, at a random point that depends on the key. Two different
    /// arguments of n numbers have the same digest at no more than n of the 2^61 points.
    fn digest(&self, argument: &[i64]) -> u64 {
        let point = self.stream(0, Purpose::Point).next_u64() % DIGEST_PRIME;
        argument.iter().fold(1, |sum, &x| {
            let product = u128::from(sum) * u128::from(point);
            let x = x.rem_euclid(DIGEST_PRIME as i64) as u64;
            // 2^61 is 1 modulo the prime. Both parts are at most the prime, and not both equal to it.
            let number = product + u128::from(x);
            let folded = (number as u64 & DIGEST_PRIME) + (number >> 61) as u64;
            if folded >= DIGEST_PRIME { folded - DIGEST_PRIME } else { folded }
        })
    }

    fn stream(&self, digest: u64, purpose: Purpose) -> ChaCha8Rng {
        let mut seed = [0; 32];
        let key = self.key.iter().flat_map(|part| part.to_le_bytes());
        let all = key.chain(digest.to_le_bytes()).chain((purpose as u32).to_le_bytes());
        seed.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        ChaCha8Rng::from_seed(seed)
    }
}

/// Applies a function to each channel of `x` (N, C, H, W), whose elements are integers of magnitude up to 2^52: a
/// channel is the vector of its N·H·W numbers, reduced modulo the prime. `keys` names the functions, one per channel.
/// Gradients pass through the functions' derivatives.
///
/// # Errors
/// If `x` does not have four dimensions and as many channels as there are keys, or is not on the tape.
pub(crate) fn channel_functions(x: &Tensor, modulus: u32, keys: &[Key]) -> Result<Tensor> {
    let (_, channels, _, _) = x.dims4()?;
    if channels != keys.len() {
        return Err(Error::Config(format!("expected {} channels, got {channels}", keys.len())));
    }
    let functions: Vec<_> = keys.iter().map(|&key| RandomFunction { modulus, key }).collect();
    let arguments = to_channels(x, modulus)?;
    let values: Vec<_> = functions.iter().zip(&arguments).map(|(f, x)| f.value(x)).collect();
    let like = (x.dims4()?, x.dtype(), x.device().clone());
    let to = like.clone();
    let backward = move |g: &Tensor| {
        let gradients = to_channels(g, modulus)?;
        let pairs = functions.iter().zip(&arguments).zip(&gradients);
        of_channels(&pairs.map(|((f, x), g)| f.backward(x, g)).collect::<Vec<_>>(), &to)
    };
    Ok(custom(x, |_| of_channels(&values, &like), backward)?)
}

/// The channels of a tensor (N, C, H, W) of integers, each reduced modulo `modulus`.
fn to_channels(x: &Tensor, modulus: u32) -> candle_core::Result<Vec<Vec<i64>>> {
    let (_, channels, _, _) = x.dims4()?;
    let flat = x.detach().to_dtype(DType::F64)?.transpose(0, 1)?.flatten_all()?.to_vec1::<f64>()?;
    let length = (flat.len() / channels.max(1)).max(1);
    Ok(flat.chunks(length).map(|channel| channel.iter().map(|&x| residue(x, modulus)).collect()).collect())
}

/// The tensor (N, C, H, W) of these channels, in the type and on the device that are given with its shape.
fn of_channels(
    channels: &[Vec<i64>],
    ((n, c, h, w), dtype, device): &((usize, usize, usize, usize), DType, Device),
) -> candle_core::Result<Tensor> {
    let values: Vec<f64> = channels.iter().flatten().map(|&x| x as f64).collect();
    let tensor = Tensor::from_vec(values, (*c, *n, *h, *w), &Device::Cpu)?.transpose(0, 1)?;
    tensor.to_dtype(*dtype)?.to_device(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use resnext_ops::vjp;

    const MODULUS: u32 = 1_000_003;

    fn function(key: Key) -> RandomFunction {
        RandomFunction { modulus: MODULUS, key }
    }

    #[test]
    fn values_depend_on_the_key_and_on_every_number_of_the_argument() {
        let f = function([1, 2, 3, 4, 5]);
        let argument = [5, -7, 0, 400_000];
        let value = f.value(&argument);
        assert_eq!(value, f.value(&argument));
        assert!(value.iter().all(|v| v.unsigned_abs() <= u64::from(MODULUS / 2)));
        for i in 0..argument.len() {
            let mut other = argument;
            other[i] += 1;
            let changed = f.value(&other);
            assert!(changed.iter().zip(&value).all(|(a, b)| a != b), "{i}");
        }
        assert_ne!(f.value(&[0, 5]), f.value(&[5, 0]));
        for i in 0..5 {
            let mut key = f.key;
            key[i] += 1;
            assert_ne!(function(key).value(&argument), value, "{i}");
        }
    }

    /// Values are spread evenly: with 4000 of them in eight parts of the range, each part has 500 ± 4 deviations.
    #[test]
    fn values_are_spread_over_all_residues() {
        let f = function([0; 5]);
        let mut counts = [0; 8];
        for i in 0..1000 {
            for v in f.value(&[i, 0, -i, 1]) {
                counts[((v + i64::from(MODULUS / 2)) * 8 / i64::from(MODULUS)) as usize] += 1;
            }
        }
        assert!(counts.iter().all(|&count: &i32| (count - 500).abs() < 85), "{counts:?}");
    }

    #[test]
    fn derivatives_are_linear_and_known_on_the_tape() {
        let f = function([9; 5]);
        let argument = [1, 2, 3, 4, 5, 6];
        let (a, b) = ([1, 0, -5, 7, 2, 300_000], [4, 4, -400_000, 1, 0, 9]);
        let sum: Vec<i64> = a.iter().zip(b).map(|(a, b)| a + b).collect();
        let [of_a, of_b, of_sum] = [&a[..], &b, &sum].map(|g| f.backward(&argument, g));
        for i in 0..6 {
            assert_eq!(centred(i128::from(of_a[i]) + i128::from(of_b[i]), MODULUS), of_sum[i]);
        }
        // (N, C, H, W) = (2, 2, 1, 3): channel 0 is the argument, modulo the prime.
        let far = f64::from(MODULUS) * 1000.0;
        let x = [1.0 + far, 2.0, 3.0, 0.0, 0.0, 0.0, 4.0, 5.0 - far, 6.0, 1.0, 1.0, 1.0];
        let g = [1.0, 0.0, -5.0, 0.0, 0.0, 0.0, 7.0, 2.0, 300_000.0, 0.0, 0.0, 0.0];
        let tensor = |values: &[f64]| Tensor::from_slice(values, (2, 2, 1, 3), &Device::Cpu).unwrap();
        let x = Var::from_tensor(&tensor(&x)).unwrap();
        let run = || channel_functions(x.as_tensor(), MODULUS, &[[9; 5], [8; 5]]);
        let (y, gradients) = vjp::<Error>(run, &tensor(&g)).unwrap();
        let first = |t: &Tensor| to_channels(t, MODULUS).unwrap()[0].clone();
        assert_eq!(first(&y), f.value(&argument));
        assert_eq!(first(gradients.get(&x).unwrap()), of_a);
        assert!(channel_functions(&y, MODULUS, &[[9; 5]]).is_err());
    }
}
