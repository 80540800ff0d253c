//! Weights in 8 bits.

use crate::error::{Error, Result};
use resnext_kernels::Quantization;

/// What errors of a packed convolution are called by.
pub(crate) const OP: &str = "fused convolution";

/// Rounds each output channel's weights to whole numbers of 8 bits, brings its bias into the output's units, and says what
/// a whole number of the sums is worth in these.
pub(crate) fn whole_numbers(
    values: &mut [f32],
    biases: &mut [f32],
    (input, output): (Quantization, Quantization),
) -> Result<Vec<f32>> {
    let wrong = |message: String| Err(Error::Value { op: OP, message });
    if !values.iter().chain(biases.iter()).all(|v| v.is_finite()) {
        return wrong("a weight or bias is not finite, which 8 bits can't say".into());
    }
    let products = values.len() / biases.len();
    if products > MOST_PRODUCTS {
        return wrong(format!(
            "sums of {products} products in 8 bits may not fit 32; at most {MOST_PRODUCTS} do"
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

/// Products of u8 and i8 that 32 bits hold the sum of.
const MOST_PRODUCTS: usize = 1 << 16;
