//! Weights in int8: one scale per output channel.

use crate::error::{Error, Result};
use resnext_kernels::{MAX_PAIR_SUM, Quantization, max_pair_sum};

/// The most products of u8 and i8 whose sum is sure to fit an i32.
const MOST_PRODUCTS: usize = 1 << 16;

/// Quantizes weights, and returns the scale of each output channel (Cout): the value of one unit of its integer sums, in
/// steps of the output.
///
/// `values` are `[output channel of all groups][input channel of a group][kernel position]`, with `group_in` input and
/// `group_out` output channels per group; they become integers, of which the magnitudes of two neighbours add up to at
/// most [`MAX_PAIR_SUM`] ([`max_pair_sum`]). `biases` are (Cout), and become multiples of the output's step.
///
/// # Errors
/// If a value is not finite, too large for the output's range, or an output is a sum of too many products.
pub(crate) fn quantize_weights(
    op: &'static str,
    values: &mut [f32],
    biases: &mut [f32],
    (group_in, group_out): (usize, usize),
    input: Quantization,
    output: Quantization,
) -> Result<Vec<f32>> {
    let wrong = |message: String| Err(Error::Value { op, message });
    if !values.iter().chain(biases.iter()).all(|v| v.is_finite()) {
        return wrong("a weight or bias is not finite, which int8 cannot represent".into());
    }
    let products = values.len() / biases.len();
    if products > MOST_PRODUCTS {
        return wrong(format!(
            "sums of {products} int8 products may overflow 32 bits; at most {MOST_PRODUCTS} are sure to fit"
        ));
    }
    let channels = values.chunks_exact_mut(products).zip(biases.iter_mut()).enumerate();
    let scales: Vec<f32> = channels
        .map(|(k, (weights, bias))| {
            let largest = max_pair_sum(weights, k / group_out * group_in, group_in);
            // Rounding adds at most a half to each.
            let step = if largest < 1e-30 { 1.0 } else { largest / (MAX_PAIR_SUM - 1) as f32 };
            weights.iter_mut().for_each(|w| *w = (*w / step).round());
            *bias = *bias / output.step() + f32::from(output.zero());
            step * (input.step() / output.step())
        })
        .collect();
    if !scales.iter().chain(biases.iter()).all(|v| v.is_finite()) {
        return wrong(format!("weights or biases are too large for an output of {output:?}"));
    }
    Ok(scales)
}
