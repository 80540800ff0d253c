//! Input tensors made by formulas, so that every engine and every device can compute the same ones.
//!
//! `bench/peers/peers.py` has the same formulas in Python.

use anyhow::Result;
use candle_core::{Device, Tensor};

/// Knuth's multiplier for hashing: 2³² divided by the golden ratio.
const MULTIPLIER: u32 = 2_654_435_761;

/// Element `i` of the sequence that starts at `salt`: spread evenly over [-1, 1).
pub fn spread(i: usize, salt: u32) -> f64 {
    in_range((i as u32).wrapping_mul(MULTIPLIER).wrapping_add(salt.wrapping_mul(40503)))
}

/// A tensor of f32 in [-2, 2) on the CPU: `fill` of `peers.py`.
pub fn filled(shape: &[usize]) -> Result<Tensor> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i| (2.0 * spread(i, 0)) as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Images (N, 3, S, S) for inference, by [`filled`].
pub fn images(batch: usize, size: usize) -> Result<Tensor> {
    filled(&[batch, 3, size, size])
}

/// A tensor of f32 in [-2, 2) on the CPU: `noise` of `peers.py`.
///
/// For training: the images of [`filled`] are so alike that batch norm would amplify their differences.
pub fn noise(shape: &[usize]) -> Result<Tensor> {
    let value = |i: usize| {
        let mut x = (i as u32).wrapping_mul(MULTIPLIER);
        x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
        x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
        (2.0 * in_range(x ^ x >> 16)) as f32
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Maps 32 bits to [-1, 1).
fn in_range(bits: u32) -> f64 {
    bits as f64 / (1u64 << 31) as f64 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values printed by `peers.py`'s own functions.
    #[test]
    fn inputs_are_those_of_the_peers() {
        let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(filled(&[2, 2]).unwrap()), FILL);
        assert_eq!(values(noise(&[1, 3, 2, 2]).unwrap())[..4], NOISE);
    }

    const FILL: [f32; 4] = [-2.0, 0.47213596, -1.0557281, 1.4164078];
    const NOISE: [f32; 4] = [-2.0, -1.7189324, 0.9244804, 1.3537519];
}
