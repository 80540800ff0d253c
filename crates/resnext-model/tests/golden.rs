//! Logits and stage maps against torchvision's (scripts/golden/networks.py) and timm's
//! (scripts/golden/relatives.py).

mod common;

use candle_core::DType;
use candle_core::{Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use common::{CPU, difference, images, tensors, values, weight};
use resnext_model::{Baseline, BaselineNetwork, Config, FusedBaseline, ResNext};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

#[test]
fn logits_and_stage_maps_are_torchvisions() {
    assert_golden(include_str!("golden/networks.json"));
}

/// Deep stems, pooled shortcuts, attention and anti-aliasing.
#[test]
fn logits_and_stage_maps_are_timms() {
    assert_golden(include_str!("golden/relatives.json"));
}

/// Weights by formula, made when they are first asked for: VGG has half a gigabyte of them.
#[derive(Clone, Default)]
struct Formula(Arc<Mutex<HashMap<String, Tensor>>>);

impl Formula {
    /// Forgets all weights but those of the classifier, which VGG-16 and VGG-19 share.
    fn next_network(&self) {
        self.0.lock().unwrap().retain(|name, _| name.starts_with("classifier."));
    }
}

impl SimpleBackend for Formula {
    fn get(&self, shape: Shape, name: &str, _: Init, _: DType, _: &Device) -> Result<Tensor> {
        let mut known = self.0.lock().unwrap();
        let own = known.entry(name.to_string()).or_insert_with(|| weight(name, shape.dims()));
        assert_eq!(own.shape(), &shape, "{name}");
        Ok(own.clone())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("without a shape: {name}")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// The Inceptions of timm, and VGG of torchvision (scripts/golden/baselines.py).
#[test]
fn logits_of_baselines_are_timms_and_torchvisions() {
    let golden: Value = serde_json::from_str(include_str!("golden/baselines.json")).unwrap();
    let formula = Formula::default();
    for (name, expected) in golden.as_object().unwrap() {
        formula.next_network();
        let baseline = Baseline::by_name(name).unwrap();
        let dims: Vec<usize> = floats(&expected["images"]).into_iter().map(|v| v as usize).collect();
        let (x, logits) = (images((dims[0], dims[1], dims[2], dims[3])), floats(&expected["logits"]));
        let classes = logits.len() / dims[0];
        let builder = || VarBuilder::from_backend(Box::new(formula.clone()), DType::F32, CPU);
        let network = BaselineNetwork::new(baseline, classes, builder()).unwrap();
        let unfused = difference(&values(&network.forward(&x, false).unwrap()), &logits);
        drop(network);
        let fused = FusedBaseline::new(baseline, classes, builder(), DType::F32).unwrap();
        // Twice, because the second pass reuses buffers.
        for _ in 0..2 {
            let fused = difference(&values(&fused.forward(&x).unwrap()), &logits);
            assert!(unfused < 2e-5 && fused < 2e-5, "{name}: {unfused:e}, fused {fused:e}");
        }
        let error = fused.forward(&images((1, 3, 9, 9))).unwrap_err().to_string();
        assert!(error.contains("fit"), "{name}: {error}");
        // Every layer of the summary is observed once.
        let mut seen = Vec::new();
        fused
            .forward_observed(&x.narrow(0, 0, 1).unwrap(), &mut |name, _| seen.push(name.to_string()))
            .unwrap();
        for layer in baseline.summary(classes, dims[2], dims[3]).layers {
            let times = seen.iter().filter(|seen| **seen == layer.name).count();
            assert_eq!(times, 1, "{name}: {} in {seen:?}", layer.name);
        }
        drop(fused);
        // With a CPU's own instructions for bf16 as without them.
        let bf16 = FusedBaseline::new(baseline, classes, builder(), DType::BF16).unwrap();
        let bf16 = difference(&values(&bf16.forward(&x).unwrap()), &logits);
        assert!(bf16 < 0.03, "{name}: {bf16:e} in bf16");
    }
}

fn assert_golden(golden: &str) {
    let golden: Value = serde_json::from_str(golden).unwrap();
    for (name, expected) in golden.as_object().unwrap() {
        let dims: Vec<usize> = floats(&expected["images"]).into_iter().map(|v| v as usize).collect();
        let logits = floats(&expected["logits"]);
        let config = Config { classes: logits.len() / dims[0], ..Config::by_name(name).unwrap() };
        let weights: HashMap<String, _> = tensors(&config).into_iter().collect();
        let network =
            ResNext::new(&config, candle_nn::VarBuilder::from_tensors(weights, DType::F32, &CPU)).unwrap();
        let x = images((dims[0], dims[1], dims[2], dims[3]));
        let unfused = difference(&values(&network.forward(&x, false).unwrap()), &logits);
        let fused = difference(&values(&network.fuse().unwrap().forward(&x).unwrap()), &logits);
        assert!(unfused < 2e-5 && fused < 2e-5, "{name}: {unfused:e}, fused {fused:e}");
        let maps = network.stage_maps(&x, false).unwrap();
        assert_eq!(maps.len(), expected["maps"].as_array().unwrap().len());
        for (s, (map, expected)) in maps.iter().zip(expected["maps"].as_array().unwrap()).enumerate() {
            let shape: Vec<usize> = floats(&expected["shape"]).into_iter().map(|v| v as usize).collect();
            assert_eq!(map.dims(), shape);
            assert_eq!((map.dims()[1], dims[2] / map.dims()[2]), (config.channels()[s], config.strides()[s]));
            let (step, largest) =
                (expected["step"].as_u64().unwrap() as usize, expected["largest"].as_f64().unwrap() as f32);
            for (got, expected) in values(map).iter().step_by(step).zip(floats(&expected["values"])) {
                assert!((got - expected).abs() < 1e-4 * largest, "{name} stage {s}: {got}, not {expected}");
            }
        }
    }
}
