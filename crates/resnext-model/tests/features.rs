//! Embeddings, stage maps, class activation maps and frozen stages.

mod common;

use candle_core::{DType, Tensor, Var};
use common::{CPU, difference, images, values, weight};
use resnext_model::{Config, Error, ResNext, Variables};
use resnext_ops::{cross_entropy, global_avg_pool, linear, value_and_gradients, vjp};

fn network() -> (Config, Variables, ResNext) {
    let config = Config::by_name("resnext11_8x4d").unwrap();
    let variables = Variables::new(3, DType::F32, &CPU);
    let network = ResNext::new(&config, variables.builder()).unwrap();
    for (name, var) in variables.all() {
        var.set(&weight(&name, var.dims())).unwrap();
    }
    (config, variables, network)
}

fn value(variables: &Variables, name: &str) -> Tensor {
    variables.all().into_iter().find(|(known, _)| known == name).unwrap().1.as_detached_tensor()
}

#[test]
fn the_embedding_is_the_input_of_the_last_layer() {
    let (config, variables, network) = network();
    let x = images((2, 3, 32, 24));
    let embedding = network.embedding(&x, false).unwrap();
    assert_eq!(embedding.dims(), [2, config.features()]);
    let bias = value(&variables, "fc.bias");
    let logits = linear(&embedding, &value(&variables, "fc.weight"), Some(&bias)).unwrap();
    assert_eq!(values(&logits), values(&network.forward(&x, false).unwrap()));
    let maps = network.stage_maps(&x, false).unwrap();
    for ((map, stride), channels) in maps.iter().zip(config.strides()).zip(config.channels()) {
        assert_eq!(map.dims(), [2, channels, 32 / stride, 24 / stride]);
    }
    let imagenet = Config::by_name("resnet50").unwrap();
    assert_eq!((imagenet.strides(), imagenet.channels()), (vec![4, 8, 16, 32], vec![256, 512, 1024, 2048]));
}

/// By the definition of Grad-CAM: the positive part of the sum of the map's channels, weighted by the mean
/// gradient of the class's logit.
#[test]
fn grad_cam_is_what_the_gradient_gives() {
    let (_, variables, network) = network();
    let x = images((2, 3, 32, 24));
    let logits = network.forward(&x, false).unwrap();
    for class in [None, Some(4)] {
        let (reported, cam) = network.grad_cam(&x, class).unwrap();
        assert!(difference(&values(&reported), &values(&logits)) < 1e-5);
        for i in 0..2 {
            let map = network.stage_maps(&x, false).unwrap()[2].narrow(0, i, 1).unwrap().detach();
            let map = Var::from_tensor(&map.contiguous().unwrap()).unwrap();
            let of = class.unwrap_or_else(|| {
                let row = values(&logits.narrow(0, i, 1).unwrap());
                (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
            });
            let one: Vec<f32> = (0..10).map(|c| if c == of { 1.0 } else { 0.0 }).collect();
            let one = Tensor::from_vec(one, (1, 10), &CPU).unwrap();
            let head = || linear(&global_avg_pool(&map)?, &value(&variables, "fc.weight"), None);
            let (_, gradients) = vjp(head, &one).unwrap();
            let gradient = gradients.get(&map).unwrap();
            let mean = gradient.mean_keepdim(3).unwrap().mean_keepdim(2).unwrap();
            let expected = map.broadcast_mul(&mean).unwrap().sum(1).unwrap().relu().unwrap();
            let expected = values(&expected);
            let largest = expected.iter().copied().fold(0f32, f32::max);
            assert!(largest > 0.0);
            let expected: Vec<f32> = expected.iter().map(|v| v / largest).collect();
            assert!(difference(&values(&cam.narrow(0, i, 1).unwrap()), &expected) < 1e-4);
        }
    }
    assert!(matches!(network.grad_cam(&x, Some(10)), Err(Error::Config(_))));
}

#[test]
fn frozen_stages_keep_their_weights_and_statistics() {
    let (_, variables, mut network) = network();
    let x = images((4, 3, 16, 16));
    let labels = Tensor::new(&[0u32, 3, 5, 9], &CPU).unwrap();
    let statistics =
        ["bn1", "layer1.0.bn2", "layer2.0.bn1", "layer3.0.bn3"].map(|n| format!("{n}.running_mean"));
    for frozen in [None, Some(0), Some(1), Some(3)] {
        network.freeze(frozen);
        let before: Vec<_> = statistics.iter().map(|name| values(&value(&variables, name))).collect();
        let (_, gradients) = value_and_gradients(|| -> resnext_model::Result<Tensor> {
            Ok(cross_entropy(&network.forward(&x, true)?, &labels, 0.0)?)
        })
        .unwrap();
        for (name, var) in variables.trainable() {
            assert_eq!(gradients.get(&var).is_none(), network.is_frozen(&name), "{name}, {frozen:?}");
        }
        for (name, before) in statistics.iter().zip(before) {
            assert_eq!(
                values(&value(&variables, name)) == before,
                network.is_frozen(name),
                "{name}, {frozen:?}"
            );
        }
    }
    assert!(network.is_frozen("layer3.0.conv1.weight") && !network.is_frozen("fc.weight"));
}
