//! The pseudo-random weights and images of scripts/golden/formula.py, so that both sides compute the same
//! numbers.

#![allow(dead_code)] // each test uses a part

pub mod pickles;

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use resnext_model::{Baseline, BaselineNetwork, Config, ResNext, Variables};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub const CPU: Device = Device::Cpu;

fn salt(name: &str) -> u32 {
    name.bytes().fold(0xcbf29ce484222325u64, |h, b| (h ^ b as u64).wrapping_mul(0x100000001b3)) as u32
}

/// `count` pseudo-random numbers in [-1, 1), from the hash of a name.
fn noise(count: usize, name: &str) -> impl Iterator<Item = f64> {
    let salt = salt(name);
    (0..count).map(move |i| {
        let mut h = (i as u32).wrapping_mul(0x9e3779b1).wrapping_add(salt);
        h = (h ^ h >> 16).wrapping_mul(0x85ebca6b);
        h = (h ^ h >> 13).wrapping_mul(0xc2b2ae35);
        (h ^ h >> 16) as f64 / (1u64 << 31) as f64 - 1.0
    })
}

/// The weight of this name and shape.
pub fn weight(name: &str, dims: &[usize]) -> Tensor {
    let inputs: usize = dims.iter().skip(1).product();
    let value = |u: f64| match dims.len() {
        4 => u * (6.0 / inputs as f64).sqrt(),
        2 => u * (3.0 / dims[1] as f64).sqrt(),
        _ if name.ends_with("running_var") => 1.0 + 0.3 * u,
        _ if name.ends_with(".weight") => (if name.contains("bn3") { 0.25 } else { 0.8 }) * (1.0 + 0.2 * u),
        _ => 0.1 * u,
    };
    let values: Vec<f32> = noise(dims.iter().product(), name).map(|u| value(u) as f32).collect();
    Tensor::from_vec(values, dims, &CPU).unwrap()
}

/// Images (N, 3, H, W).
pub fn images(dims: (usize, usize, usize, usize)) -> Tensor {
    let count = dims.0 * dims.1 * dims.2 * dims.3;
    Tensor::from_vec(noise(count, "images").map(|u| (2.0 * u) as f32).collect(), dims, &CPU).unwrap()
}

/// All weights of a network, by name.
pub fn tensors(config: &Config) -> BTreeMap<String, Tensor> {
    let variables = Variables::new(0, DType::F32, &CPU);
    ResNext::new(config, variables.builder()).unwrap();
    variables.all().into_iter().map(|(name, var)| (name.clone(), weight(&name, var.dims()))).collect()
}

/// The names and shapes of a baseline's weights.
pub fn shapes(baseline: Baseline, classes: usize) -> BTreeMap<String, Vec<usize>> {
    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<BTreeMap<String, Vec<usize>>>>);
    impl SimpleBackend for Recorder {
        fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
            self.0.lock().unwrap().insert(name.into(), shape.dims().to_vec());
            Tensor::zeros((), dtype, device)?.broadcast_as(shape)
        }
        fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
            candle_core::bail!("without a shape: {name}")
        }
        fn contains_tensor(&self, _: &str) -> bool {
            true
        }
    }
    let recorder = Recorder::default();
    let builder = VarBuilder::from_backend(Box::new(recorder.clone()), DType::F32, CPU);
    BaselineNetwork::new(baseline, classes, builder).unwrap();
    recorder.0.lock().unwrap().clone()
}

pub fn save(tensors: &BTreeMap<String, Tensor>, path: &Path) {
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

pub fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference, relative to the largest expected magnitude.
pub fn difference(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
    got.iter().zip(expected).fold(0f32, |most, (g, e)| most.max((g - e).abs())) / largest
}
