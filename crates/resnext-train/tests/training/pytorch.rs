//! Optimizers, schedules, losses and metrics against PyTorch's and timm's figures.

use super::{close, config, fill, flat, model};
use candle_core::{DType, Device, Tensor, Var};
use resnext_train::*;

#[derive(serde::Deserialize)]
struct Golden {
    nesterov: bool,
    values: Vec<Vec<f64>>,
}

#[test]
fn sgd_is_pytorchs_in_f32_and_f64() {
    let golden: Vec<Golden> = serde_json::from_str(include_str!("../golden/sgd.json")).unwrap();
    for case in golden {
        for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-11)] {
            let tensor = |salt| Tensor::new(fill(5, salt), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let x = Var::from_tensor(&tensor(1)).unwrap();
            let config = SgdConfig { momentum: 0.9, nesterov: case.nesterov, weight_decay: 5e-4 };
            let mut sgd = Sgd::new(vec![("x".into(), x.clone())], config).unwrap();
            for (step, want) in case.values.iter().enumerate() {
                let gradient = tensor(10 + step as u64);
                sgd.step(0.1, |_| Some(&gradient)).unwrap();
                let got = x.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
                for (got, want) in got.iter().zip(want) {
                    assert!((got - want).abs() < tolerance, "step {step}: {got} {want}");
                }
            }
        }
    }
}

/// Figures of PyTorch and timm; see `scripts/golden/training.py`.
fn golden() -> serde_json::Value {
    serde_json::from_str(include_str!("../golden/training.json")).unwrap()
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn adamw_is_pytorchs_and_lamb_is_timms() {
    let golden = golden();
    for (dtype, tolerance) in [(DType::F32, 3e-6), (DType::F64, 1e-10)] {
        let tensor = |dims: &[usize], salt| {
            let count = dims.iter().product::<usize>() as u64;
            Tensor::from_vec(fill(count, salt), dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        for name in ["adamw", "lamb"] {
            let zeros = Tensor::zeros((2, 3), dtype, &Device::Cpu).unwrap();
            let shapes: [&[usize]; 3] = [&[3, 4], &[5], &[2, 3]];
            let values = [tensor(shapes[0], 1), tensor(shapes[1], 2), zeros];
            let values = values.map(|value| Var::from_tensor(&value).unwrap());
            let named = values.iter().enumerate().map(|(i, value)| (i.to_string(), value.clone())).collect();
            let (betas, eps, weight_decay) = ([0.8, 0.95], 1e-6, 0.3);
            let adam = match name {
                "adamw" => Adam::adamw(named, AdamWConfig { betas, eps, weight_decay }),
                _ => Adam::lamb(named, LambConfig { betas, eps, weight_decay, max_grad_norm: 1.5 }),
            };
            let group = |_: &str, dims: &[usize]| ParameterGroup { decay: dims.len() > 1, rate: 0.5 };
            let mut adam = adam.unwrap().with_groups(group).with_average(0.0, vec![]).unwrap();
            for step in 0..4usize {
                let gradients: Vec<Tensor> =
                    (0..3).map(|i| tensor(shapes[i], 10 * step as u64 + i as u64 + 20)).collect();
                let of = |var: &Var| values.iter().position(|own| own.id() == var.id());
                adam.step(0.04, |var| of(var).map(|i| &gradients[i])).unwrap();
                for (i, value) in values.iter().enumerate() {
                    let want = numbers(&golden[name][step][i]);
                    close(&flat(value), &want, tolerance, &format!("{name}, step {step}, parameter {i}"));
                }
                // An average that keeps nothing is the value.
                assert_eq!(flat(&adam.averages()[0].1), flat(&values[0]));
            }
        }
    }
}

#[test]
fn a_group_has_its_own_rate_and_decay_in_sgd_too() {
    let x = |value: f64| Var::new(&[value as f32], &Device::Cpu).unwrap();
    let (slow, still, plain) = (x(1.0), x(1.0), x(1.0));
    let config = SgdConfig { momentum: 0.0, nesterov: false, weight_decay: 0.5 };
    let named = [("slow", &slow), ("still", &still), ("plain", &plain)];
    let named = named.map(|(name, value)| (name.to_string(), value.clone())).to_vec();
    let group = |name: &str, _: &[usize]| match name {
        "slow" => ParameterGroup { rate: 0.25, decay: true },
        "still" => ParameterGroup { rate: 1.0, decay: false },
        _ => ParameterGroup::default(),
    };
    let mut sgd = Sgd::new(named, config).unwrap().with_groups(group);
    let gradient = Tensor::new(&[1f32], &Device::Cpu).unwrap();
    sgd.step(0.1, |_| Some(&gradient)).unwrap();
    let values = [&slow, &still, &plain].map(|value| flat(value)[0]);
    close(&values, &[1.0 - 0.025 * 1.5, 0.9, 1.0 - 0.1 * 1.5], 1e-6, "values after a step");
}

#[test]
fn gradients_are_clipped_as_pytorch_does() {
    let golden = golden();
    for (name, clip) in [
        ("clip_norm", Clip::Norm(1.5)),
        ("clip_norm_loose", Clip::Norm(100.0)),
        ("clip_value", "value=0.7".parse().unwrap()),
    ] {
        let gradient = |count, salt| {
            let values: Vec<f32> = fill(count, salt).iter().map(|v| 2.0 * *v as f32).collect();
            Tensor::new(values, &Device::Cpu).unwrap()
        };
        let mut gradients = [gradient(4, 1), gradient(3, 2)];
        clip.apply(gradients.iter_mut()).unwrap();
        for (i, gradient) in gradients.iter().enumerate() {
            close(&flat(gradient), &numbers(&golden[name][i]), 1e-6, name);
        }
    }
}

#[test]
fn schedules_are_pytorchs() {
    let golden = golden();
    for (name, text) in [
        ("step", r#"{"kind": "step", "size": 0.3, "factor": 0.3}"#),
        ("multi_step", r#"{"kind": "multi-step"}"#),
        ("cosine", r#"{"kind": "cosine", "end": 0.1}"#),
        ("polynomial", r#"{"kind": "polynomial", "power": 2}"#),
        ("one_cycle", r#"{"kind": "one-cycle", "warmup": 0.25}"#),
        ("warm_cosine", r#"{"kind": "cosine", "warmup": 0.2}"#),
        ("warm_polynomial", r#"{"kind": "polynomial", "warmup": 0.2}"#),
    ] {
        let schedule: Schedule = serde_json::from_str(text).unwrap();
        schedule.validate().unwrap();
        let rates: Vec<f64> = (0..20).map(|step| schedule.learning_rate(0.4, step, 20)).collect();
        close(&rates, &numbers(&golden[name]), 1e-9, name);
        let again: Schedule = serde_json::from_value(serde_json::to_value(&schedule).unwrap()).unwrap();
        assert_eq!(again, schedule);
    }
    // A warm-up that begins at a tenth of the peak.
    let schedule: Schedule =
        serde_json::from_str(r#"{"kind": "cosine", "warmup": 0.2, "start": 0.1}"#).unwrap();
    close(&[schedule.learning_rate(1.0, 1, 20)], &[0.1 + 0.9 * 0.5], 1e-12, "second of four steps");
    for bad in ["\"end\": 2", "\"start\": -1", "\"warmup\": 1.5"] {
        let text = format!("{{\"kind\": \"cosine\", {bad}}}");
        assert!(serde_json::from_str::<Schedule>(&text).unwrap().validate().is_err(), "{bad}");
    }
}

/// Losses and gradients on the tape are PyTorch's and timm's, and those of candle's graph off the tape.
#[test]
fn losses_are_pytorchs_and_timms() {
    let golden = golden();
    let rows: Vec<Vec<f64>> = serde_json::from_value(golden["soft_targets"].clone()).unwrap();
    let soft = Tensor::new(rows, &Device::Cpu).unwrap();
    let labels = Tensor::new(&[0u32, 3, 4, 2], &Device::Cpu).unwrap();
    for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-10)] {
        let soft = soft.to_dtype(dtype).unwrap();
        for (name, loss, targets, smoothing) in [
            ("soft_cross_entropy", Loss::CrossEntropy, &soft, 0.0),
            ("soft_cross_entropy_smoothed", Loss::CrossEntropy, &soft, 0.1),
            ("bce", Loss::Bce { threshold: None }, &labels, 0.0),
            ("bce_smoothed", Loss::Bce { threshold: None }, &labels, 0.1),
            ("bce_threshold", Loss::Bce { threshold: Some(0.2) }, &soft, 0.0),
        ] {
            let logits = fill(20, 1).iter().map(|v| 3.0 * v).collect();
            let logits = Tensor::from_vec(logits, (4, 5), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let logits = Var::from_tensor(&logits).unwrap();
            let (value, gradients) =
                resnext_ops::value_and_gradients(|| loss.of(&logits, targets, smoothing)).unwrap();
            let want = golden[name]["loss"].as_f64().unwrap();
            close(&flat(&value), &[want], tolerance, name);
            let want = numbers(&golden[name]["grad"]);
            close(&flat(gradients.get(&logits).unwrap()), &want, tolerance, name);
            let value = loss.of(&logits, targets, smoothing).unwrap();
            let gradients = value.backward().unwrap();
            close(&flat(gradients.get(&logits).unwrap()), &want, tolerance, name);
        }
    }
    let refused = |targets: &Tensor, loss: Loss| {
        let logits = Tensor::zeros((4, 5), DType::F32, &Device::Cpu).unwrap();
        loss.of(&logits, targets, 0.0).unwrap_err().to_string()
    };
    let five = Tensor::new(&[0u32, 5, 1, 1], &Device::Cpu).unwrap();
    assert!(refused(&five, Loss::Bce { threshold: None }).contains("label 5 of example 1 is not below 5"));
    let narrow = Tensor::zeros((4, 3), DType::F32, &Device::Cpu).unwrap();
    assert!(refused(&narrow, Loss::CrossEntropy).contains("the shape of the logits"));
}

/// Class weights of labels, smoothed labels and mixed ones count as PyTorch's do.
#[test]
fn weighted_losses_are_pytorchs() {
    let golden = golden();
    let weights: Vec<f32> = serde_json::from_value(golden["class_weights"].clone()).unwrap();
    let rows: Vec<Vec<f64>> = serde_json::from_value(golden["soft_targets"].clone()).unwrap();
    let soft = Tensor::new(rows, &Device::Cpu).unwrap();
    let labels = Tensor::new(&[0u32, 3, 4, 2], &Device::Cpu).unwrap();
    let logits = fill(20, 1).iter().map(|v| 3.0 * v).collect();
    let logits = Tensor::from_vec(logits, (4, 5), &Device::Cpu).unwrap();
    let logits = Var::from_tensor(&logits.to_dtype(DType::F64).unwrap()).unwrap();
    for (name, targets, smoothing) in
        [("weighted", &labels, 0.0), ("weighted_smoothed", &labels, 0.1), ("weighted_soft", &soft, 0.1)]
    {
        let of = || Loss::CrossEntropy.weighted(&logits, targets, smoothing, &weights);
        let (value, gradients) = resnext_ops::value_and_gradients(of).unwrap();
        close(&flat(&value), &[golden[name]["loss"].as_f64().unwrap()], 1e-10, name);
        close(&flat(gradients.get(&logits).unwrap()), &numbers(&golden[name]["grad"]), 1e-10, name);
        // Equal weights change nothing.
        let same = Loss::CrossEntropy.weighted(&logits, targets, smoothing, &[2.0; 5]).unwrap();
        let factor = if targets.dtype() == DType::U32 { 1.0 } else { 2.0 };
        let plain = Loss::CrossEntropy.of(&logits, targets, smoothing).unwrap();
        close(&flat(&same), &[factor * flat(&plain)[0]], 1e-10, name);
    }
    let refused = |loss: Loss, weights: &[f32]| {
        let config = TrainConfig { loss, class_weights: weights.to_vec(), ..config(1) };
        let error = Trainer::new(model(), config, serde_json::Value::Null, &Device::Cpu).unwrap_err();
        error.to_string()
    };
    assert!(
        refused(Loss::Bce { threshold: None }, &[1.0; 4]).contains("class weights are for cross-entropy")
    );
    assert!(refused(Loss::CrossEntropy, &[1.0, -1.0, 1.0, 1.0]).contains("at least 0, got -1"));
    assert!(refused(Loss::CrossEntropy, &[0.0; 4]).contains("all 0"));
    let two = Loss::CrossEntropy.weighted(&logits, &labels, 0.0, &[1.0; 2]).unwrap_err().to_string();
    assert!(two.contains("2 class weights for 5 classes"), "{two}");
}

#[test]
fn the_average_follows_the_values_in_every_type() {
    for dtype in [DType::F32, DType::F64] {
        let tensor = |v: f64| Tensor::new(&[v; 3], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let x = Var::from_tensor(&tensor(1.0)).unwrap();
        let config = SgdConfig { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
        let mut sgd =
            Sgd::new(vec![("x".into(), x.clone())], config).unwrap().with_average(0.5, vec![]).unwrap();
        sgd.set_steps(100);
        let (gradient, mut want) = (tensor(1.0), 1.0);
        for step in 1..=4 {
            sgd.step(0.1, |_| Some(&gradient)).unwrap();
            want = 0.5 * want + 0.5 * (1.0 - 0.1 * step as f64);
        }
        let average = sgd.averages()[0].1.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        assert!(average.iter().all(|v| (v - want).abs() < 1e-6), "{average:?} {want}");
    }
    let refused = Sgd::new(vec![], SgdConfig::default()).unwrap().with_average(1.0, vec![]).unwrap_err();
    assert!(refused.to_string().contains("from 0 to below 1"));
}

#[test]
fn schedules_pass_through_their_known_points() {
    let rate = |schedule: &Schedule, step| schedule.learning_rate(1.0, step, 100);
    let of = |text: &str| serde_json::from_str::<Schedule>(text).unwrap();
    let step = of(r#"{"kind": "step", "warmup": 0.1}"#);
    for (at, want) in [(0, 0.1), (9, 1.0), (49, 1.0), (50, 0.1), (99, 0.01)] {
        assert!((rate(&step, at) - want).abs() < 1e-12, "step {at}");
    }
    let cosine = of(r#"{"kind": "cosine"}"#);
    assert!((rate(&cosine, 0) - 1.0).abs() < 1e-12 && (rate(&cosine, 50) - 0.5).abs() < 1e-12);
    let cycle = Schedule::OneCycle { warmup: 0.3 };
    assert!((rate(&cycle, 0) - 0.04).abs() < 1e-12 && (rate(&cycle, 30) - 1.0).abs() < 1e-12);
    for schedule in [step, cosine, cycle] {
        assert!((0..=100).all(|i| (0.0..=1.0).contains(&rate(&schedule, i))));
        schedule.validate().unwrap();
    }
    assert!(of(r#"{"kind": "cosine", "warmup": 2}"#).validate().is_err());
}

#[test]
fn metrics_count_top_1_top_5_and_nan_as_wrong() {
    let logits = Tensor::new(
        &[[0.1f32, 0.9, 0., 0., 0., 0.5], [0.9, 0.1, 0.2, 0.3, 0.4, 0.5], [f32::NAN; 6]],
        &Device::Cpu,
    )
    .unwrap();
    let mut metrics = Metrics::default();
    metrics.add(&logits, &Tensor::new(&[1u32, 1, 0], &Device::Cpu).unwrap(), 2.0).unwrap();
    assert_eq!((metrics.count, metrics.loss()), (3, 2.0));
    assert_eq!((metrics.top1(), metrics.top5()), (1.0 / 3.0, 1.0 / 3.0));
    assert_eq!(metrics.per_class[1], (1, 2));
}
