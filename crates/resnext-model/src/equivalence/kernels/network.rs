//! Inference's network against the training network, on integers.

use crate::config::{Config, Form, StemKind};
use crate::convert::Tensors;
use crate::equivalence::distance::largest as largest_of;
use crate::equivalence::stack::{generator, tensor};
use crate::equivalence::tally::Tally;
use crate::error::Result;
use crate::infer::Fused;
use crate::network::ResNext;
use crate::required_weights::required_weights;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use resnext_ops::bf16_is_native;
use serde::{Deserialize, Serialize};

/// The comparison of inference's network with the training network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FusedProof {
    /// The name of the network.
    pub network: String,
    /// The form of the training network.
    pub form: String,
    /// The instruction set.
    pub isa: String,
    /// The type of inference's weights.
    pub dtype: String,
    /// The largest magnitude in any stage's map.
    pub largest: f64,
    /// The comparison of the logits.
    pub tally: Tally,
}

/// Compares [`Fused`] in `dtype`, of [`fused_types`], with the training network of `config` in evaluation mode in f64, on
/// integers.
///
/// Each output channel of a convolution copies one input channel at one kernel position, drawn at random, or its
/// negative, or, at the end of a block, nothing; batch norms shift by integers. So numbers stay small through any depth, and
/// any pixel, channel or layer that inference takes from elsewhere is another number. Logits of f32 that are not exact would
/// differ too.
///
/// # Errors
/// If the configuration is invalid or an operation fails.
pub fn fused_network(name: &str, config: &Config, dtype: DType, seed: u64) -> Result<FusedProof> {
    let mut rng = generator(seed);
    let weights = draw(config, &mut rng)?;
    compare(name, config, dtype, &weights, &weights, &mut rng)
}

/// The types in which [`fused_network`] compares exactly: those whose maps are f32. Where maps are bf16, they are rounded.
pub fn fused_types() -> &'static [DType] {
    if bf16_is_native() { &[DType::F32] } else { &[DType::F32, DType::BF16] }
}

/// Compares inference with weights `inferred` with the training network with weights `weights`.
fn compare(
    name: &str,
    config: &Config,
    dtype: DType,
    weights: &Tensors,
    inferred: &Tensors,
    rng: &mut ChaCha8Rng,
) -> Result<FusedProof> {
    let side = if config.stem == StemKind::ImageNet { 64 } else { 32 };
    // The mean over the last map, of 4 or 64 pixels, divides by a power of two. Three images leave one over for two threads.
    let images: Vec<f64> = (0..3 * 3 * side * side).map(|_| rng.random_range(-8..=8) as f64).collect();
    let images = tensor(images, (3, 3, side, side), DType::F64, &Device::Cpu)?;
    let of_type = |weights: &Tensors, dtype: DType| -> Result<VarBuilder> {
        let convert = |(name, t): (&String, &Tensor)| Ok((name.clone(), t.to_dtype(dtype)?));
        let tensors = weights.iter().map(convert).collect::<Result<_>>()?;
        Ok(VarBuilder::from_tensors(tensors, dtype, &Device::Cpu))
    };
    let network = ResNext::new(config, of_type(weights, DType::F64)?)?;
    let mut largest = 0f64;
    for map in network.stage_maps(&images, false)? {
        largest = largest.max(largest_of(&map)?);
    }
    let expected = network.forward(&images, false)?;
    drop(network);
    let fused = Fused::new(config, of_type(inferred, DType::F32)?, dtype)?;
    let got = fused.forward(&images.to_dtype(DType::F32)?)?.to_dtype(DType::F64)?;
    let mut tally = Tally::default();
    tally.compare(|| format!("the logits of {name}"), &expected, &got)?;
    let isa = resnext_ops::Isa::current().name().into();
    let (network, form, dtype) = (name.into(), config.form.to_string(), dtype.as_str().into());
    Ok(FusedProof { network, form, isa, dtype, largest, tally })
}

/// The weights of a network whose convolutions copy channels.
fn draw(config: &Config, rng: &mut ChaCha8Rng) -> Result<Tensors> {
    let shapes =
        required_weights(|builder| ResNext::new(&Config { form: Form::C, ..config.clone() }, builder))?;
    let last = if config.block.expansion() == 1 { "conv2.weight" } else { "conv3.weight" };
    let one = |(name, shape): (String, Shape)| -> Result<(String, Tensor)> {
        let values = match (shape.dims(), name.rsplit('.').next()) {
            (&[outputs, ..], _) if shape.rank() == 4 => {
                let products = shape.elem_count() / outputs.max(1);
                let mut values = vec![0.0; shape.elem_count()];
                // A sum of block and shortcut may double: where two of three channels add nothing, and half of the others
                // subtract, numbers grow slowly.
                for channel in values.chunks_mut(products.max(1)) {
                    let copies = !name.ends_with(last) || rng.random_range(0..3) == 0;
                    let place = rng.random_range(0..products);
                    channel[place] = if copies { *[1.0, -1.0].choose(rng).unwrap_or(&1.0) } else { 0.0 };
                }
                values
            }
            // The inverse root of it, after eps is added, is 1.
            (_, Some("running_var")) => vec![1.0 - 1e-5; shape.elem_count()],
            (&[_], Some("weight")) => {
                (0..shape.elem_count()).map(|_| *[1.0, 1.0, -1.0].choose(rng).unwrap_or(&1.0)).collect()
            }
            (&[_], _) => (0..shape.elem_count()).map(|_| rng.random_range(-1..=2) as f64).collect(),
            // The last layer.
            _ => (0..shape.elem_count()).map(|_| rng.random_range(-1..=1) as f64).collect(),
        };
        Ok((name, tensor(values, shape, DType::F64, &Device::Cpu)?))
    };
    let form_c = shapes.into_iter().map(one).collect::<Result<Tensors>>()?;
    crate::convert::network(&form_c, &Config { form: Form::C, ..config.clone() }, config.form)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One wrong channel of one layer is found in the logits.
    #[test]
    fn wrong_weights_of_inference_are_found() {
        let config = Config { planes: 16, ..Config::by_name("resnext11_4x4d").unwrap() };
        let weights = draw(&config, &mut generator(1)).unwrap();
        for layer in ["conv1.weight", "layer1.0.conv1.weight", "layer3.0.bn2.bias"] {
            let mut wrong = weights.clone();
            let moved = wrong[layer].roll(1, 0).unwrap();
            wrong.insert(layer.into(), moved);
            let proof = compare("wrong", &config, DType::F32, &weights, &wrong, &mut generator(2)).unwrap();
            assert!(proof.tally.bits > 0, "{layer}");
        }
    }
}
