//! Logits and stage maps against torchvision's (scripts/golden/networks.py).

mod common;

use candle_core::DType;
use common::{CPU, difference, images, tensors, values};
use resnext_model::{Config, ResNext};
use serde_json::Value;
use std::collections::HashMap;

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

#[test]
fn logits_and_stage_maps_are_torchvisions() {
    let golden: Value = serde_json::from_str(include_str!("golden/networks.json")).unwrap();
    for (name, expected) in golden.as_object().unwrap() {
        let config = Config::by_name(name).unwrap();
        let weights: HashMap<String, _> = tensors(&config).into_iter().collect();
        let network =
            ResNext::new(&config, candle_nn::VarBuilder::from_tensors(weights, DType::F32, &CPU)).unwrap();
        let dims: Vec<usize> = floats(&expected["images"]).into_iter().map(|v| v as usize).collect();
        let x = images((dims[0], dims[1], dims[2], dims[3]));
        let logits = floats(&expected["logits"]);
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
