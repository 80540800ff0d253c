//! The rounding error of a single layer, and its bound (theorem 3 of `docs/equivalence.md`).

use super::distance::{epsilon, relative_error, values, worse};
use super::stack::{Stack, generator, tensor};
use crate::config::Form;
use crate::convert;
use crate::error::Result;
use crate::mode::Mode;
use candle_core::{DType, Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use resnext_ops::{Conv2dConfig, cat_channels, conv2d, sum};
use serde::Serialize;

/// The distance between the forms of one layer with the same input.
#[derive(Debug, Clone, Serialize)]
pub struct LayerError {
    /// The name of the convolution: `conv1`, `conv2` or `conv3`.
    pub layer: &'static str,
    /// The number of roundings in the computation of one output.
    pub length: f64,
    /// The largest difference, in machine epsilons of the sum of the absolute products.
    pub error: f64,
    /// The proved upper bound on `error`, in the same unit.
    pub bound: f64,
}

/// Compares each convolution of a single block with its paths computed separately, on real numbers.
///
/// # Errors
/// If `dtype` is not floating, or an operation fails.
pub fn layer_errors(stack: &Stack, dtype: DType, device: &Device, seed: u64) -> Result<Vec<LayerError>> {
    let size = *stack.first()?;
    let (paths, inner) = (size.cardinality, size.inner());
    let mut rng = generator(seed);
    let (h, w) = stack.map;
    let mut draw = |shape: (usize, usize, usize, usize)| {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        tensor(normals(&mut rng, count), shape, dtype, device)
    };
    let (x, mid) = (draw((2, size.input, h, w))?, draw((2, inner, h, w))?);
    let (w1, w2) = (draw((inner, size.input, 1, 1))?, draw((inner, size.path, 3, 3))?);
    let w3 = draw((size.output, inner, 1, 1))?;
    let dense = Conv2dConfig::default();
    let spatial = Conv2dConfig { stride: size.stride, padding: 1, ..dense };
    let grouped = Conv2dConfig { groups: paths, ..spatial };
    // The layer path by path, where `part(i)` computes path i.
    let parts = |part: &dyn Fn(usize) -> Result<Tensor>| (0..paths).map(part).collect::<Result<Vec<_>>>();
    let slice = |t: &Tensor, dim: usize, i: usize| t.narrow(dim, i * size.path, size.path);
    let split1 = parts(&|i| Ok(conv2d(&x, &slice(&w1, 0, i)?, &dense)?))?;
    let split2 = parts(&|i| Ok(conv2d(&slice(&mid, 1, i)?, &slice(&w2, 0, i)?, &spatial)?))?;
    let split3 = parts(&|i| Ok(conv2d(&slice(&mid, 1, i)?, &slice(&w3, 1, i)?, &dense)?))?;
    let cases = [
        ("conv1", size.input, &x, &w1, dense, cat_channels(&split1)?, 1),
        ("conv2", 9 * size.path, &mid, &w2, grouped, cat_channels(&split2)?, 1),
        ("conv3", inner, &mid, &w3, dense, sum(&split3)?, paths),
    ];
    let (unit, mut errors) = (epsilon(dtype)?, Vec::new());
    for (layer, products, input, weight, config, apart, summands) in cases {
        let whole = values(&conv2d(input, weight, &config)?)?;
        let wide = |t: &Tensor| t.to_dtype(DType::F64)?.abs();
        let sizes = values(&conv2d(&wide(input)?, &wide(weight)?, &config)?)?;
        let differences = whole.iter().zip(values(&apart)?).zip(sizes);
        let error = differences.map(|((w, a), size)| (w - a).abs() / (unit * size)).fold(0.0, worse);
        let length = roundings(products, summands, dtype);
        // Each side is within γ = Lu/(1 - Lu) of the exact sum, where u is half an epsilon (Higham, section
        // 3.1).
        errors.push(LayerError { layer, length, error, bound: length / (1.0 - length * unit / 2.0) });
    }
    Ok(errors)
}

/// The number of roundings in a sum of `summands` sums, of `products` products in all. bf16 is accumulated in
/// f32, whose roundings are 2^-16 of its own, and rounded at the end.
pub(super) fn roundings(products: usize, summands: usize, dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => (1 + summands) as f64 + products as f64 / 65536.0,
        _ => (products + summands) as f64,
    }
}

/// The largest difference between the outputs of a block's forms in f32, with ReLU and batch norm in training
/// mode, in machine epsilons of the largest output.
///
/// # Errors
/// If an operation fails.
pub fn output_error(stack: &Stack, device: &Device, seed: u64) -> Result<f64> {
    let mut rng = generator(seed);
    let weights = stack.draw(DType::F32, device, |name, n| match name.rsplit('.').next() {
        Some("running_var") => vec![1.0; n],
        _ => normals(&mut rng, n),
    })?;
    let shape = stack.input(2)?;
    let x = tensor(normals(&mut rng, shape.elem_count()), &shape, DType::F32, device)?;
    let output = |form: Form| -> Result<Tensor> {
        let weights = convert::network(&weights, &stack.config(Form::C), form)?;
        let vb = candle_nn::VarBuilder::from_tensors(weights.into_iter().collect(), DType::F32, device);
        stack.build(form, vb)?.iter().try_fold(x.clone(), |x, block| block.forward(&x, Mode::Train))
    };
    let expected = output(Form::C)?;
    let unit = epsilon(DType::F32)?;
    let (a, b) = (output(Form::A)?, output(Form::B)?);
    Ok(worse(relative_error(&expected, &a, unit)?, relative_error(&expected, &b, unit)?))
}

/// Random numbers with the mean and variance of the standard normal distribution: sums of three uniform ones.
pub(super) fn normals(rng: &mut ChaCha8Rng, count: usize) -> Vec<f64> {
    (0..count).map(|_| (0..3).map(|_| rng.random_range(-1.0..1.0)).sum()).collect()
}
