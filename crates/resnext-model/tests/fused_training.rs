//! Training with fused blocks, compared with the same operations one by one in candle's graph.

use candle_core::{DType, Device, Tensor};
use resnext_model::{Config, ResNext, Variables};
use resnext_ops::{cross_entropy, profiled, value_and_gradients};
use std::collections::BTreeMap;

fn images(batch: usize, side: usize, dtype: DType) -> Tensor {
    let len = batch * 3 * side * side;
    let values: Vec<f64> =
        (0..len as u64).map(|i| ((i * 2654435761) % (1 << 32)) as f64 / (1u64 << 31) as f64 - 1.0).collect();
    Tensor::from_vec(values, (batch, 3, side, side), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn labels(batch: usize) -> Tensor {
    Tensor::from_vec((0..batch as u32).map(|i| i % 5).collect(), batch, &Device::Cpu).unwrap()
}

/// Loss, gradients and running statistics by name, in f64.
fn step(
    config: &Config,
    (batch, side): (usize, usize),
    dtype: DType,
    fused: bool,
    recompute: bool,
) -> BTreeMap<String, Vec<f64>> {
    step_beside(config, (batch, side), (dtype, None), fused, recompute)
}

/// As [`step`], with feature maps of type `half` beside parameters of type `dtype`.
fn step_beside(
    config: &Config,
    (batch, side): (usize, usize),
    (dtype, half): (DType, Option<DType>),
    fused: bool,
    recompute: bool,
) -> BTreeMap<String, Vec<f64>> {
    let variables = Variables::new(7, dtype, &Device::Cpu);
    let mut network = ResNext::new(config, variables.builder()).unwrap();
    network.set_recompute(recompute);
    network.set_mixed_precision(half).unwrap();
    let (x, labels) = (images(batch, side, dtype), labels(batch));
    let loss = || cross_entropy(&network.forward(&x, true).unwrap(), &labels, 0.1);
    let values = |t: &Tensor| {
        t.to_dtype(DType::F64).unwrap().contiguous().unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    let mut all = BTreeMap::new();
    if fused {
        let (loss, gradients) = value_and_gradients(loss).unwrap();
        all.insert("loss".to_string(), values(&loss));
        for (name, var) in variables.trainable() {
            all.insert(format!("gradient of {name}"), values(gradients.get(&var).unwrap()));
        }
    } else {
        let loss = loss().unwrap();
        let gradients = loss.backward().unwrap();
        all.insert("loss".to_string(), values(&loss));
        for (name, var) in variables.trainable() {
            all.insert(format!("gradient of {name}"), values(gradients.get(&var).unwrap()));
        }
    }
    let running = variables.all().into_iter().filter(|(name, _)| name.contains("running"));
    all.extend(running.map(|(name, var)| (name, values(&var))));
    all
}

/// An ImageNet network with every kind of block, and a CIFAR one.
fn networks() -> [(Config, (usize, usize)); 2] {
    let small =
        Config { depths: vec![1, 2], planes: 16, classes: 5, ..Config::by_name("resnext50_8x4d").unwrap() };
    let cifar = Config { classes: 5, ..Config::by_name("resnext11_4x8d").unwrap() };
    [(small, (3, 45)), (cifar, (4, 16))]
}

#[test]
fn fused_training_is_training_one_by_one() {
    for (config, size) in networks() {
        for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 2e-2)] {
            let (got, want) =
                (step(&config, size, dtype, true, false), step(&config, size, dtype, false, false));
            assert_eq!(got.len(), want.len());
            for (name, want) in &want {
                let largest = want.iter().fold(1e-3f64, |most, v| most.max(v.abs()));
                for (got, want) in got[name].iter().zip(want) {
                    assert!((got - want).abs() < tolerance * largest, "{dtype:?} {name}: {got} {want}");
                }
            }
        }
    }
}

/// Attention, deep stems, pooled shortcuts and anti-aliasing: gradients on the tape are those of candle's graph,
/// and reach every variable.
#[test]
fn timms_relatives_train_as_one_by_one() {
    for (name, base_width) in [("seresnextaa14d_4x4d", 4), ("ecaresnetblur10t", 16)] {
        let config = Config { planes: 16, base_width, classes: 5, ..Config::by_name(name).unwrap() };
        let run = |taped| step(&config, (2, 70), DType::F64, taped, false);
        let (got, want) = (run(true), run(false));
        assert_eq!(got.len(), want.len());
        for (name, want) in &want {
            let largest = want.iter().fold(1e-3f64, |most, v| most.max(v.abs()));
            assert!(want.iter().any(|v| *v != 0.0), "{name} is zero");
            for (got, want) in got[name].iter().zip(want) {
                assert!((got - want).abs() < 1e-9 * largest, "{name}: {got} {want}");
            }
        }
        // In mixed precision the factors are computed in f32.
        let half = step_beside(&config, (2, 70), MIXED, true, false);
        assert!(half.values().flatten().all(|v| v.is_finite()));
    }
}

#[test]
fn recomputing_and_threads_change_no_bit() {
    for (config, size) in networks() {
        for half in [None, Some(DType::BF16)] {
            let run = |threads, recompute| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| step_beside(&config, size, (DType::F32, half), true, recompute))
            };
            let want = run(1, false);
            for (threads, recompute) in [(2, false), (5, false), (1, true), (3, true)] {
                assert_eq!(
                    run(threads, recompute),
                    want,
                    "{half:?}, {threads} threads, recompute {recompute}"
                );
            }
        }
    }
}

const MIXED: (DType, Option<DType>) = (DType::F32, Some(DType::BF16));

#[test]
fn maps_in_bf16_give_gradients_near_those_of_f32() {
    for (config, size) in networks() {
        let (got, parts) = profiled(|| step_beside(&config, size, MIXED, true, false));
        let parts: Vec<String> = parts.into_iter().map(|(name, _)| name).collect();
        for part in ["conv1 weight gradient", "layer1.0.conv2 gradients"] {
            assert!(parts.iter().any(|name| name == part), "not by fused operations: {parts:?}");
        }
        let want = step(&config, size, DType::F32, true, false);
        assert_eq!(got.len(), want.len());
        let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let mut errors = Vec::new();
        for (name, want) in &want {
            let difference: Vec<f64> = got[name].iter().zip(want).map(|(got, want)| got - want).collect();
            errors.push((norm(&difference) / norm(want), name));
        }
        errors.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Through a few layers of batch norm over a handful of small images every rounding is amplified:
        // those nearest to the entrance are worst off. Kernels by themselves are compared bit for bit.
        let (middle, worst) = (&errors[errors.len() / 2], &errors[errors.len() - 1]);
        assert!(middle.0 < 0.2 && worst.0 < 0.6, "half are within {middle:?}, all within {worst:?}");
    }
}

#[test]
fn maps_in_bf16_train_like_f32() {
    for (config, (batch, side)) in networks() {
        let run = |half: Option<DType>| -> Vec<f64> {
            let variables = Variables::new(7, DType::F32, &Device::Cpu);
            let mut network = ResNext::new(&config, variables.builder()).unwrap();
            network.set_mixed_precision(half).unwrap();
            let (x, labels) = (images(batch, side, DType::F32), labels(batch));
            let loss = || cross_entropy(&network.forward(&x, true).unwrap(), &labels, 0.0);
            let mut losses = Vec::new();
            for _ in 0..12 {
                let (loss, gradients) = value_and_gradients(loss).unwrap();
                losses.push(loss.to_scalar::<f32>().unwrap() as f64);
                for (_, var) in variables.trainable() {
                    let gradient = gradients.get(&var).unwrap();
                    var.set(&(var.as_detached_tensor() - (gradient * 0.02).unwrap()).unwrap()).unwrap();
                }
            }
            losses
        };
        let (wide, half) = (run(None), run(Some(DType::BF16)));
        assert_ne!(wide, half);
        for losses in [&wide, &half] {
            assert!(losses[11] < 0.5 * losses[0], "{losses:?}");
        }
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        assert!((mean(&wide) / mean(&half) - 1.0).abs() < 0.05, "{wide:?} in f32, {half:?} with bf16");
    }
}
