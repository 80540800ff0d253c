//! Inference's kernels: packed convolutions with bias, residual and ReLU.

use super::definition::Definition;
use super::integers::{Integers, of_integers};
use super::proofs::{Proofs, Run};
use super::shapes::Place;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use resnext_ops::{
    Conv2dConfig, ConvKernel, FeatureMap, FusedConv, Fusion, InputImages, Quantization, ThreadTeam,
};

/// The kernel of every type that this machine's inference has.
pub(super) fn kernels(place: Place, definition: &Definition) -> Result<Vec<ConvKernel>> {
    let weight = of_integers(&vec![0; definition.weight().elem_count()], definition.weight(), DType::F32)?;
    let bias = of_integers(&vec![0; definition.output], definition.output, DType::F32)?;
    let kernel = |dtype| Ok(pack(place, definition, (&weight, &bias), dtype)?.kernel());
    FLOATS.into_iter().map(kernel).collect()
}

/// The floating types of inference. On a CPU without instructions for bf16, only weights are bf16.
const FLOATS: [DType; 2] = [DType::F32, DType::BF16];

fn pack(
    place: Place,
    definition: &Definition,
    (weight, bias): (&Tensor, &Tensor),
    dtype: DType,
) -> Result<FusedConv> {
    let config = definition.config;
    Ok(match place {
        // Images are loaded with a border instead.
        Place::First => FusedConv::of_images(weight, bias, &Conv2dConfig { padding: 0, ..config }, dtype)?,
        Place::Inner => FusedConv::new(weight, bias, &config, dtype)?,
        Place::Last => FusedConv::writing_f32(weight, bias, &config, dtype)?,
    })
}

/// Compares one trial's convolutions with the sums that are expected of them: alone, with a residual, and with residual and
/// ReLU.
pub(super) fn compare(
    place: Place,
    definition: &Definition,
    integers: &Integers,
    sums: &[i32],
    proofs: &mut Proofs,
) -> Result<()> {
    let Integers { x, weight, bias, residual, .. } = integers;
    let (h, w) = definition.out();
    let biased = |i: usize| sums[i] + bias[i / (h * w) % definition.output];
    let alone: Vec<i32> = (0..sums.len()).map(biased).collect();
    let added: Vec<i32> = alone.iter().zip(residual).map(|(y, r)| y + r).collect();
    let positive: Vec<i32> = added.iter().map(|&y| y.max(0)).collect();
    let x = of_integers(x, definition.x(), DType::F32)?;
    let weight = of_integers(weight, definition.weight(), DType::F32)?;
    let bias = of_integers(bias, definition.output, DType::F32)?;
    let residual = of_integers(residual, definition.y(), DType::F32)?;
    for dtype in FLOATS {
        let conv = pack(place, definition, (&weight, &bias), dtype)?;
        // The last layer writes f32 whatever it reads.
        let output = if place == Place::Last { DType::F32 } else { conv.map_dtype() };
        let [mut loaded, mut shortcut, mut y] = std::array::from_fn(|_| FeatureMap::new());
        let mut images = InputImages::new();
        ThreadTeam::scope(|team| -> Result<()> {
            shortcut.load(team, &residual, output)?;
            match place {
                Place::First => images.load(team, &x, conv.input_format(), definition.config.padding)?,
                _ => loaded.load(team, &x, conv.map_dtype())?,
            }
            let ahead = [&conv];
            let joined = |relu| Fusion { residual: Some(&shortcut), relu, ahead: &ahead };
            for (fusion, expected) in
                [(Fusion::default(), &alone), (joined(false), &added), (joined(true), &positive)]
            {
                let relu = fusion.relu;
                match place {
                    Place::First => conv.forward_images(team, &images, fusion, &mut y)?,
                    _ => conv.forward(team, &loaded, fusion, &mut y)?,
                }
                let got = y.to_tensor()?;
                let expected = of_integers(expected, definition.y(), output)?.to_dtype(got.dtype())?;
                let run = Run {
                    operation: if relu { "inference, with ReLU" } else { "inference" },
                    dtype,
                    kernel: conv.kernel(),
                    shows_all: !relu && output == DType::F32,
                };
                proofs.compare(run, definition, &expected, &got)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The largest pixel for which sums of 8-bit products are below 2^24, so that their conversion to f32 is exact.
fn largest_pixel(definition: &Definition) -> i32 {
    let products = definition.group_in() * definition.kernel * definition.kernel;
    // Bias and residual take no more than one product each.
    ((1 << 24) / (127 * (products as i32 + 2))).min(255)
}

/// The integers of a trial in int8: pixels from 0, and weights of which two neighbours add up to at most 127. Each output
/// channel has a pair that adds up to 127, so that quantization leaves the weights as they are.
#[derive(Clone)]
pub(super) struct Int8Integers {
    /// (N, Cin, H, W).
    x: Vec<i32>,
    /// (Cout, Cin/groups, k, k).
    weight: Vec<i32>,
    /// (Cout).
    bias: Vec<i32>,
    /// (N, Cout, H', W').
    residual: Vec<i32>,
    /// The definition's sums (N, Cout, H', W').
    pub(super) sums: Vec<i32>,
    /// The step of the output, a power of two with which a good part of the outputs does not saturate.
    step: i32,
}

impl Int8Integers {
    /// `None` if the sums of this shape are too long to be exact.
    pub(super) fn draw(definition: &Definition, rng: &mut ChaCha8Rng) -> Option<Self> {
        let most = largest_pixel(definition);
        if most < 1 {
            return None;
        }
        let products = definition.group_in() * definition.kernel * definition.kernel;
        let x: Vec<i32> = (0..definition.x().elem_count()).map(|_| rng.random_range(0..=most)).collect();
        let mut weight: Vec<i32> =
            (0..definition.weight().elem_count()).map(|_| rng.random_range(-127..=127)).collect();
        let (taps, group_in) = (definition.kernel * definition.kernel, definition.group_in());
        for (k, channel) in weight.chunks_mut(products).enumerate() {
            let place = rng.random_range(0..products);
            channel[place] = if rng.random() { 127 } else { -127 };
            // Neighbours are an even and the next odd channel of the map.
            let first = k / definition.group_out() * group_in % 2;
            for one in (first..group_in.saturating_sub(1)).step_by(2) {
                for tap in 0..taps {
                    let [one, other] = [one, one + 1].map(|channel| channel * taps + tap);
                    let (kept, changed) = if other == place { (other, one) } else { (one, other) };
                    let left = 127 - channel[kept].abs();
                    channel[changed] = channel[changed].clamp(-left, left);
                }
            }
        }
        let bias = (0..definition.output).map(|_| rng.random_range(-127..=127)).collect();
        let residual = (0..definition.y().elem_count()).map(|_| rng.random_range(0..=255)).collect();
        let sums = definition.forward(&x, &weight);
        let largest = sums.iter().map(|s| s.unsigned_abs()).max().unwrap_or(1).max(128);
        let step = (largest / 64).next_power_of_two() as i32;
        // The output in units of 1, with bias, residual and zero point, before it is rounded to steps.
        let sum = i64::from(largest) + 127 + 255 + 128 * i64::from(step);
        assert!(sum <= 1 << 24, "{definition}: too long a sum");
        Some(Int8Integers { x, weight, bias, residual, sums, step })
    }
}

/// Compares one trial's convolutions in int8 with the definition, alone and with residual and ReLU.
pub(super) fn compare_int8(
    definition: &Definition,
    integers: &Int8Integers,
    proofs: &mut Proofs,
) -> Result<()> {
    let Int8Integers { x, weight, bias, residual, sums, step } = integers;
    let step = *step;
    let (h, w) = definition.out();
    let quantization =
        |step: i32| Quantization::positive(255.0 * step as f32).map_err(resnext_ops::Error::from);
    let signed = |step: i32| Quantization::signed(127.0 * step as f32).map_err(resnext_ops::Error::from);
    let (input, output) = (quantization(1)?, signed(step)?);
    let of = |values: &[i32], shape: candle_core::Shape| of_integers(values, shape, DType::F32);
    let weight = of(weight, definition.weight())?;
    let biases = of(bias, definition.output.into())?;
    let conv = FusedConv::quantized(&weight, &biases, &definition.config, input, output)?;
    let [mut loaded, mut maps, mut added, mut y, mut joined] = std::array::from_fn(|_| FeatureMap::new());
    ThreadTeam::scope(|team| -> Result<()> {
        loaded.load(team, &of(x, definition.x())?, DType::F32)?;
        maps.quantize(team, &loaded, input)?;
        conv.forward(team, &maps, Fusion::default(), &mut y)?;
        loaded.load(team, &of(residual, definition.y())?, DType::F32)?;
        added.quantize(team, &loaded, input)?;
        let fusion = Fusion { residual: Some(&added), relu: true, ahead: &[&conv] };
        conv.forward(team, &maps, fusion, &mut joined)?;
        Ok(())
    })?;
    for (with_residual, got) in [(false, &y), (true, &joined)] {
        let expected = |i: usize| {
            let exact = f64::from(sums[i] + bias[i / (h * w) % definition.output]);
            let exact = if with_residual { exact + f64::from(residual[i]) } else { exact };
            // In steps from the zero point, to the nearest, ties to even, saturated at both ends; ReLU cuts at the zero
            // point.
            let q = (exact / f64::from(step) + 128.0).round_ties_even();
            let q = q.clamp(if with_residual { 128.0 } else { 0.0 }, 255.0);
            ((q - 128.0) * f64::from(step)) as f32
        };
        let expected: Vec<f32> = (0..sums.len()).into_par_iter().map(expected).collect();
        let expected = Tensor::from_vec(expected, definition.y(), &Device::Cpu)?;
        let run = Run { operation: "inference", dtype: DType::U8, kernel: conv.kernel(), shows_all: false };
        proofs.compare(run, definition, &expected, &got.to_tensor()?)?;
    }
    Ok(())
}
