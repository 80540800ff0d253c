//! The fully connected layer, as a 1×1 convolution of one pixel.

use crate::error::{Error, Result};
use crate::train::conv2d::{conv2d, conv2d_with_bias};
use crate::train::tape::reshape;
use candle_core::Tensor;
use resnext_kernels::Conv2dConfig;

/// Multiplies `x` (N, I) by the transpose of `weight` (O, I) and adds `bias` (O). Returns (N, O). The weight
/// may also be that of a 1×1 convolution, (O, I, 1, 1).
///
/// # Errors
/// If the shapes or types do not fit each other.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let rank2 = |input, t: &Tensor| {
        t.dims2().map_err(|_| Error::Shape {
            op: "linear",
            input,
            expected: "two dimensions".into(),
            got: t.shape().clone(),
        })
    };
    let (n, inputs) = rank2("x", x)?;
    let (outputs, expected) = match *weight.dims() {
        [outputs, inputs, 1, 1] => (outputs, inputs),
        _ => rank2("weight", weight)?,
    };
    if inputs != expected {
        let expected = format!("[N, {expected}], to fit the weight");
        return Err(Error::Shape { op: "linear", input: "x", expected, got: x.shape().clone() });
    }
    let x = reshape(x, (n, inputs, 1, 1))?;
    let weight = match weight.rank() {
        4 => weight.clone(),
        _ => reshape(weight, (outputs, inputs, 1, 1))?,
    };
    let config = Conv2dConfig::default();
    let y = match bias {
        None => conv2d(&x, &weight, &config)?,
        Some(bias) => conv2d_with_bias(&x, &weight, bias, &config)?,
    };
    reshape(&y, (n, outputs))
}
