//! Weights in int8: one scale per output channel.

use crate::error::{Error, Result};
use resnext_kernels::Quantization;

/// The most products of u8 and i8 whose sum is sure to fit an i32.
const MOST_PRODUCTS: usize = 1 << 16;

/// Rounds each output channel's weights to integers in -127..=127, brings its bias to units of the output's
/// step, and returns what one unit of the channel's integer sums is worth in those: `values` is (Cout, …),
/// `biases` (Cout).
///
/// # Errors
/// If a value is not finite, too large for the output's range, or an output is a sum of too many products.
pub(crate) fn quantize_weights(
    op: &'static str,
    values: &mut [f32],
    biases: &mut [f32],
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
    let channels = values.chunks_exact_mut(products).zip(biases.iter_mut());
    let scales: Vec<f32> = channels
        .map(|(weights, bias)| {
            let largest = weights.iter().fold(0f32, |most, w| most.max(w.abs()));
            let step = if largest < 1e-30 { 1.0 } else { largest / 127.0 };
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
