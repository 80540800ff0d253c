//! The optimizer against PyTorch, learning-rate schedules, checkpoints, and interrupted runs.

#[path = "training/baseline.rs"]
mod baseline;
#[path = "training/distributed.rs"]
mod distributed;

use candle_core::{DType, Device, Tensor, Var};
use resnext_model::{Config, Form, Weights};
use resnext_train::checkpoint::{assign, replace_file};
use resnext_train::*;
use std::collections::BTreeMap;
use std::path::Path;

fn fill(len: u64, salt: u64) -> Vec<f64> {
    (0..len).map(|i| ((i * 2654435761 + salt * 40503) % (1 << 32)) as f64 / 2147483648.0 - 1.0).collect()
}

#[derive(serde::Deserialize)]
struct Golden {
    nesterov: bool,
    values: Vec<Vec<f64>>,
}

#[test]
fn sgd_is_pytorchs_in_f32_and_f64() {
    let golden: Vec<Golden> = serde_json::from_str(include_str!("golden/sgd.json")).unwrap();
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
    serde_json::from_str(include_str!("golden/training.json")).unwrap()
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < tolerance, "{what}: {got}, expected {want}");
    }
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
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

/// Thirty images of noise (3, 8, 8), in batches of this many.
struct Noise(usize);

const NOISE: Noise = Noise(6);

impl Noise {
    fn batches(&self, salt: u64, skip: usize) -> Batches<'_> {
        let (images, labels): (Vec<f32>, Vec<u32>) = (0..5u64)
            .flat_map(|i| {
                let images = fill(6 * 3 * 64, 100 * salt + i);
                let image = |k: usize| images[k * 192..(k + 1) * 192].iter().map(|&v| v as f32).collect();
                (0..6).map(|k| (image(k), (k as u32 + i as u32) % 4)).collect::<Vec<(Vec<f32>, u32)>>()
            })
            .skip(skip)
            .fold((vec![], vec![]), |(mut images, mut labels), (image, label)| {
                images.extend(image);
                labels.push(label);
                (images, labels)
            });
        Box::new((0..labels.len()).step_by(self.0).map(move |at| {
            let end = labels.len().min(at + self.0);
            let images = images[at * 192..end * 192].to_vec();
            let labels = labels[at..end].to_vec();
            Ok((
                Tensor::from_vec(images, (end - at, 3, 8, 8), &Device::Cpu)?,
                Tensor::new(labels, &Device::Cpu)?,
            ))
        }))
    }
}

impl Data for Noise {
    fn images_per_epoch(&self) -> usize {
        30
    }
    fn batch_size(&self) -> usize {
        self.0
    }
    fn image_size(&self) -> (usize, usize) {
        (8, 8)
    }
    fn fingerprint(&self) -> String {
        "noise".into()
    }
    fn train(&self, epoch: usize, skip: usize) -> Batches<'_> {
        self.batches(epoch as u64 + 1, skip)
    }
    fn test(&self) -> Batches<'_> {
        self.batches(0, 0)
    }
}

/// Records losses and metrics, writes checkpoints to `file`, and stops after `stop_after` batches.
struct Recorder<'a> {
    losses: Vec<f64>,
    epochs: Vec<(Metrics, Metrics)>,
    file: &'a Path,
    stop_after: usize,
}

impl Observer for Recorder<'_> {
    fn on_batch(&mut self, report: &BatchReport) {
        self.losses.push(report.loss);
    }
    fn on_epoch(&mut self, report: &EpochReport) -> Result<()> {
        self.epochs.push((report.train.clone(), report.test.clone()));
        Ok(())
    }
    fn save(&mut self, checkpoint: &Checkpoint, _best: bool) -> Result<()> {
        checkpoint.save(self.file)
    }
    fn should_stop(&self) -> bool {
        self.losses.len() >= self.stop_after
    }
}

fn config(accumulate: usize) -> TrainConfig {
    TrainConfig {
        epochs: 2,
        lr: 0.05,
        label_smoothing: 0.1,
        accumulate,
        seed: 3,
        ema: 0.9,
        ..Default::default()
    }
}

fn model() -> Config {
    Config { classes: 4, ..Config::by_name("resnext11_4x4d").unwrap() }
}

fn trainer(accumulate: usize) -> Trainer {
    trainer_of(config(accumulate))
}

fn trainer_of(config: TrainConfig) -> Trainer {
    Trainer::new(model(), config, serde_json::json!({"name": "test"}), &Device::Cpu).unwrap()
}

fn weights(checkpoint: &Checkpoint) -> Vec<Vec<u32>> {
    let bits =
        |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect();
    let Checkpoint { tensors, momentum, average, .. } = checkpoint;
    tensors.values().chain(momentum.values()).chain(average.values()).map(bits).collect()
}

#[test]
fn a_resumed_run_is_the_same_bits_as_one_that_was_not_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    for accumulate in [1, 2] {
        let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
        let (mut whole, mut watch) = (trainer(accumulate), record(usize::MAX));
        assert_eq!(whole.run(&NOISE, &mut watch).unwrap(), Outcome::Finished);

        let mut losses = Vec::new();
        let mut epochs = Vec::new();
        let mut first = record(2);
        assert_eq!(trainer(accumulate).run(&NOISE, &mut first).unwrap(), Outcome::Stopped);
        losses.extend(first.losses);
        epochs.extend(first.epochs);
        loop {
            let checkpoint = Checkpoint::load(&file, &Device::Cpu).unwrap();
            let mut resumed = trainer(accumulate);
            resumed.restore(&checkpoint, &file).unwrap();
            let mut watch = record(3);
            let outcome = resumed.run(&NOISE, &mut watch).unwrap();
            losses.extend(watch.losses);
            epochs.extend(watch.epochs);
            if outcome == Outcome::Finished {
                assert_eq!(weights(&resumed.checkpoint()), weights(&whole.checkpoint()));
                break;
            }
        }
        assert_eq!(losses, watch.losses);
        assert_eq!(epochs, watch.epochs);
    }
}

/// Equal checkpoints are equal files, with or without the optimizer's state, however much metadata they have.
#[test]
fn checkpoints_of_the_same_state_have_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let saved = |name: &str| -> [Vec<u8>; 2] {
        let mut trainer = trainer(1);
        trainer.set_metadata((0..8).map(|i| (format!("key {i}"), format!("value \"{i}\" é"))).collect());
        let (whole, weights) = (folder.path().join(name), folder.path().join(format!("{name}.weights")));
        trainer.checkpoint().save(&whole).unwrap();
        trainer.checkpoint().save_weights(&weights).unwrap();
        [whole, weights].map(|path| std::fs::read(path).unwrap())
    };
    let first = saved("first");
    for other in ["second", "third", "fourth"] {
        assert!(first == saved(other), "{other} has other bytes");
    }
}

/// A run that resumes within an epoch goes on from its sums of losses, and compares with its best top-1.
#[test]
fn numbers_of_a_checkpoint_are_read_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let numbers: Vec<f64> = (1..4000).map(|i| 40.0 * f64::from(i).sqrt().sin().abs()).collect();
    let mut checkpoint = trainer(1).checkpoint();
    checkpoint.recipe = serde_json::json!(numbers);
    checkpoint.save(&file).unwrap();
    let read = Checkpoint::load(&file, &Device::Cpu).unwrap().recipe;
    let wrong = numbers.iter().zip(read.as_array().unwrap()).filter(|(n, r)| r.as_f64() != Some(**n)).count();
    assert_eq!(wrong, 0, "of {}", numbers.len());
}

/// Mixed precision gives losses close to f32's but not equal to them, the same bits after an interruption,
/// and files in f32.
#[test]
fn mixed_precision_trains_like_f32_and_resumes_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
    let of = |amp| trainer_of(TrainConfig { amp, lr: 0.002, ..config(1) });
    let (mut wide, mut whole, mut again) = (record(usize::MAX), record(usize::MAX), record(usize::MAX));
    of(Amp::Off).run(&NOISE, &mut wide).unwrap();
    let checkpointing = TrainConfig { amp: Amp::Bf16, grad_checkpoint: true, lr: 0.002, ..config(1) };
    trainer_of(checkpointing).run(&NOISE, &mut again).unwrap();
    let mut trainer = of(Amp::Bf16);
    trainer.run(&NOISE, &mut whole).unwrap();
    assert_ne!(wide.losses, whole.losses);
    assert_eq!(again.losses, whole.losses);
    for (wide, mixed) in wide.losses.iter().zip(&whole.losses) {
        assert!((wide / mixed - 1.0).abs() < 0.1, "{wide} in f32, {mixed} with bf16");
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!((mean(&wide.losses) / mean(&whole.losses) - 1.0).abs() < 0.03, "{:?}", whole.losses);

    let mut first = record(3);
    of(Amp::Bf16).run(&NOISE, &mut first).unwrap();
    let stopped = Checkpoint::load(&file, &Device::Cpu).unwrap();
    let Checkpoint { tensors, momentum, average, .. } = &stopped;
    let saved = tensors.values().chain(momentum.values()).chain(average.values());
    assert!(saved.into_iter().all(|t| t.dtype() == DType::F32));
    let (mut resumed, mut second) = (of(Amp::Bf16), record(usize::MAX));
    resumed.restore(&stopped, &file).unwrap();
    resumed.run(&NOISE, &mut second).unwrap();
    assert_eq!([first.losses, second.losses].concat(), whole.losses);
    assert_eq!(weights(&resumed.checkpoint()), weights(&trainer.checkpoint()));
}

/// A run of form (a), converted to form (c) with its running statistics and momentum, continues as it would
/// have in (a) up to rounding. Converting back gives the same bits.
#[test]
fn a_run_goes_on_in_another_form_with_its_momentum() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
    let of = |form: Form| {
        let model = Config { form, ..model() };
        Trainer::new(&model, config(1), serde_json::Value::Null, &Device::Cpu).unwrap()
    };
    let (mut whole, mut stayed) = (of(Form::A), record(usize::MAX));
    whole.run(&NOISE, &mut stayed).unwrap();
    of(Form::A).run(&NOISE, &mut record(2)).unwrap();
    let stopped = Checkpoint::load(&file, &Device::Cpu).unwrap();
    assert!(stopped.momentum.contains_key("layer1.0.paths.3.conv3.weight"));
    for form in [Form::B, Form::C] {
        let converted = stopped.clone().into_form(form).unwrap();
        let back = converted.clone().into_form(Form::A).unwrap();
        assert!(weights(&back) == weights(&stopped), "other bits after form ({form})");
        let mut resumed = of(form);
        resumed.restore(&converted, &file).unwrap();
        let mut changed = record(usize::MAX);
        resumed.run(&NOISE, &mut changed).unwrap();
        for (stayed, changed) in stayed.losses[2..].iter().zip(&changed.losses) {
            assert!((stayed / changed - 1.0).abs() < 1e-3, "form {form}: {changed}, in form a {stayed}");
        }
    }
}

#[test]
fn a_checkpoint_of_another_model_changes_nothing() {
    let file = Path::new("other.safetensors");
    let mut trainer = trainer(1);
    let before = weights(&trainer.checkpoint());
    let other =
        Trainer::new(&Config { classes: 5, ..model() }, config(1), serde_json::Value::Null, &Device::Cpu)
            .unwrap();
    let error = trainer.restore(&other.checkpoint(), file).unwrap_err().to_string();
    assert!(error.contains("other.safetensors does not fit"), "{error}");
    let variables = resnext_model::Variables::new(0, DType::F32, &Device::Cpu);
    resnext_model::ResNext::new(&model(), variables.builder()).unwrap();
    let error = assign(&variables.all(), &other.checkpoint().tensors, file).unwrap_err().to_string();
    assert!(error.contains("expected 4 classes, file has 5: fc.weight"), "{error}");
    let error = assign(&variables.all(), &BTreeMap::new(), file).unwrap_err().to_string();
    assert!(error.contains("missing: bn1.bias") && error.ends_with(", …"), "{error}");
    assert_eq!(weights(&trainer.checkpoint()), before);
}

#[test]
fn bad_files_get_one_clear_line_and_a_failed_save_keeps_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.safetensors");
    let checkpoint = trainer(1).checkpoint();
    checkpoint.save(&file).unwrap();
    let whole = std::fs::read(&file).unwrap();
    let message = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Checkpoint::load(&file, &Device::Cpu).unwrap_err().to_string()
    };
    for bytes in [&whole[..whole.len() / 2], &whole[..100], b"<html>", b"", &[255; 64]] {
        let text = message(bytes);
        assert!(text.contains("not a complete safetensors file") && !text.contains('\n'), "{text}");
    }
    let plain = safetensors::serialize(&checkpoint.tensors, None).unwrap();
    assert!(message(&plain).contains("a plain weights file"));
    assert_eq!(Weights::open(&file).unwrap().shapes().count(), checkpoint.tensors.len());

    // If the temporary file cannot be created, the old file stays and nothing is left behind.
    std::fs::write(&file, &whole).unwrap();
    std::fs::create_dir(file.with_extension("tmp")).unwrap();
    assert!(replace_file(&file, b"new").unwrap_err().to_string().contains("cannot write"));
    assert_eq!(std::fs::read(&file).unwrap(), whole);
    assert!(checkpoint.save(&folder.path().join("no/such/folder.safetensors")).is_err());
}

fn sgd(config: &mut TrainConfig) -> &mut SgdConfig {
    match &mut config.optimizer {
        OptimizerConfig::Sgd(sgd) => sgd,
        other => panic!("{other:?}"),
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let refused = |change: fn(&mut TrainConfig)| {
        let mut config = config(1);
        change(&mut config);
        Trainer::new(model(), config, serde_json::Value::Null, &Device::Cpu).unwrap_err().to_string()
    };
    assert!(refused(|c| c.epochs = 0).contains("epochs must be at least 1, got 0"));
    assert!(refused(|c| c.lr = f64::NAN).contains("learning rate must be above 0"));
    assert_eq!(refused(|c| sgd(c).momentum = 1.0), "momentum must be from 0 to below 1, got 1");
    assert_eq!(refused(|c| sgd(c).momentum = 0.0), "Nesterov momentum needs a momentum above 0");
    assert_eq!(refused(|c| sgd(c).weight_decay = -1.0), "weight decay must be at least 0, got -1");
    assert_eq!(refused(|c| c.ema = 1.0), "the average's decay must be from 0 to below 1, got 1");
    assert_eq!(refused(|c| c.label_smoothing = 1.5), "label smoothing must be from 0 to 1, got 1.5");
    assert!("fp16".parse::<Amp>().unwrap_err().to_string().contains("off, bf16 or tf32, not `fp16`"));
    assert!(refused(|c| c.amp = Amp::Tf32).contains("mixed precision tf32 needs a CUDA device"));
    assert_eq!(refused(|c| c.accumulate = 0), "accumulate must be at least 1, got 0");
    assert_eq!(refused(|c| c.layer_decay = 0.0), "layer decay must be above 0 and at most 1, got 0");
    assert_eq!(refused(|c| c.drop_path = 1.0), "drop path must be from 0 to below 1, got 1");
    assert_eq!(refused(|c| c.clip = Some(Clip::Norm(0.0))), "the limit of gradients must be above 0, got 0");
    assert!(refused(|c| c.loss = Loss::Bce { threshold: Some(1.0) }).contains("from 0 to below 1, got 1"));
    assert!(refused(|c| c.freeze = "layer1".parse().unwrap()).contains("without `stem`"));
    let adamw = |change: fn(&mut AdamWConfig)| {
        let mut adamw = AdamWConfig::default();
        change(&mut adamw);
        let config = TrainConfig { optimizer: OptimizerConfig::AdamW(adamw), ..config(1) };
        Trainer::new(model(), config, serde_json::Value::Null, &Device::Cpu).unwrap_err().to_string()
    };
    assert_eq!(adamw(|c| c.betas[1] = 1.0), "betas must be from 0 to below 1, got 1");
    assert_eq!(adamw(|c| c.eps = 0.0), "eps must be above 0, got 0");
    assert!("agc=1".parse::<Clip>().unwrap_err().to_string().contains("norm=LIMIT or value=LIMIT"));
}

/// A run that goes on with another batch size, within an epoch and with gradients accumulated, sees every
/// image of the epoch once, and its schedule goes on from the same place.
#[test]
fn another_batch_size_continues_by_image() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
    for (batch_size, batches) in [(6, 3), (20, 1), (1, 18), (7, 3)] {
        trainer(1).run(&NOISE, &mut record(2)).unwrap();
        let mut resumed = trainer(1);
        resumed.restore(&Checkpoint::load(&file, &Device::Cpu).unwrap(), &file).unwrap();
        assert_eq!(resumed.progress().images, 12);
        // The labels that follow are those that an uninterrupted run sees.
        let labels = |data: Noise| -> Vec<u32> {
            data.train(0, 12).flat_map(|batch| batch.unwrap().1.to_vec1::<u32>().unwrap()).collect()
        };
        assert_eq!(labels(Noise(batch_size)), labels(NOISE));
        let mut watch = record(usize::MAX);
        assert_eq!(resumed.run(&Noise(batch_size), &mut watch).unwrap(), Outcome::Finished);
        assert_eq!(watch.losses.len(), batches + 30usize.div_ceil(batch_size), "batches of {batch_size}");
        assert_eq!(watch.epochs[0].0.count, 30);
        let per_class: Vec<usize> = watch.epochs[0].0.per_class.iter().map(|&(_, seen)| seen).collect();
        assert_eq!(per_class, [8, 8, 7, 7]);
        if batch_size == 6 {
            let mut whole = trainer(1);
            whole.run(&NOISE, &mut record(usize::MAX)).unwrap();
            assert_eq!(weights(&resumed.checkpoint()), weights(&whole.checkpoint()));
        }
    }
}

/// A checkpoint that an earlier version wrote has no count of images, and continues all the same.
#[test]
fn an_average_that_begins_on_resumption_is_warmed_up() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
    let plain = TrainConfig { ema: 0.0, ..config(1) };
    trainer_of(plain).run(&NOISE, &mut record(3)).unwrap();
    let mut checkpoint = Checkpoint::load(&file, &Device::Cpu).unwrap();
    checkpoint.progress.images = 0;
    let mut resumed = trainer_of(TrainConfig { ema: 0.999, ..config(1) });
    resumed.restore(&checkpoint, &file).unwrap();
    assert_eq!((resumed.progress().images, resumed.progress().average_from), (18, 3));
    resumed.run(&NOISE, &mut record(1)).unwrap();
    // The first step of an average keeps 2/11 of its initial value, whatever the run has done before.
    let Checkpoint { tensors, average, progress, .. } = resumed.checkpoint();
    assert_eq!((progress.step, progress.average_from), (4, 3));
    let name = "layer1.0.conv1.weight";
    let want = ((&checkpoint.tensors[name] * (2.0 / 11.0)).unwrap()
        + (&tensors[name] * (9.0 / 11.0)).unwrap())
    .unwrap();
    let worst = (want - &average[name]).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    assert!(worst.to_scalar::<f32>().unwrap() < 1e-6);
}

/// [`Noise`] that says it is something else.
struct Other(Noise, (usize, usize), &'static str);

impl Data for Other {
    fn images_per_epoch(&self) -> usize {
        self.0.images_per_epoch()
    }
    fn batch_size(&self) -> usize {
        self.0.batch_size()
    }
    fn image_size(&self) -> (usize, usize) {
        self.1
    }
    fn fingerprint(&self) -> String {
        self.2.into()
    }
    fn train(&self, epoch: usize, skip: usize) -> Batches<'_> {
        self.0.train(epoch, skip)
    }
    fn test(&self) -> Batches<'_> {
        self.0.test()
    }
}

#[test]
fn what_will_fail_later_is_known_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
    let mut first = trainer(1);
    first.run(&NOISE, &mut record(2)).unwrap();
    let refused = |trainer: &mut Trainer, data: &Other| {
        let mut watch = record(usize::MAX);
        let error = trainer.run(data, &mut watch).unwrap_err().to_string();
        assert!(watch.losses.is_empty(), "{error}");
        error
    };
    let other = Other(NOISE, (8, 8), "thunder");
    assert_eq!(refused(&mut first, &other), "the run was trained on noise; it cannot continue on thunder");
    // Behind three stages, a map of 4×4 images is one pixel: the last of 30 images in batches of 29 is alone.
    let alone = |size, side| refused(&mut trainer(1), &Other(Noise(size), (side, side), "noise"));
    assert!(alone(29, 4).contains("the last of 30 images is alone in its batch of 29"), "{}", alone(29, 4));
    assert!(alone(1, 3).contains("every batch has 1 image, and of images of 3×3"), "{}", alone(1, 3));
    assert!(alone(0, 8).contains("30 training images in batches of 0"), "{}", alone(0, 8));
    // Behind 12 images, 18 are left.
    let rest = refused(&mut first, &Other(Noise(17), (4, 4), "noise"));
    assert!(rest.contains("alone in its batch of 17"), "{rest}");
    let noisy = refused(&mut first, &Other(NOISE, (8, 8), "noises"));
    assert!(noisy.contains("trained on noise; it cannot continue on noises"), "{noisy}");
    // What is said of a training set today may be more than a checkpoint of an earlier version has.
    first.run(&Other(NOISE, (8, 8), "noise, lengths 7"), &mut record(usize::MAX)).unwrap();
    let mut larger = trainer(1);
    larger.run(&Other(Noise(29), (8, 8), "noise"), &mut record(usize::MAX)).unwrap();
}

/// Counts what it saves, saves after every step, and stops in the course of the evaluation.
struct Careful {
    saved: Vec<(usize, usize)>,
    tested: usize,
}

impl Observer for Careful {
    fn on_batch(&mut self, _: &BatchReport) {}
    fn on_test_batch(&mut self, _: usize) {
        self.tested += 1;
    }
    fn on_epoch(&mut self, _: &EpochReport) -> Result<()> {
        panic!("the evaluation was stopped")
    }
    fn save(&mut self, checkpoint: &Checkpoint, _: bool) -> Result<()> {
        self.saved.push((checkpoint.progress.epoch, checkpoint.progress.images));
        Ok(())
    }
    fn should_stop(&self) -> bool {
        self.tested == 2
    }
    fn should_save(&self) -> bool {
        true
    }
}

#[test]
fn checkpoints_are_saved_within_an_epoch_and_an_evaluation_can_be_stopped() {
    let mut careful = Careful { saved: vec![], tested: 0 };
    assert_eq!(trainer(2).run(&NOISE, &mut careful).unwrap(), Outcome::Stopped);
    // Steps of two batches of six, the last one of one batch; then the stop.
    assert_eq!(careful.saved, [(0, 12), (0, 24), (0, 30), (0, 30)]);
    assert_eq!(careful.tested, 2);
}

#[test]
fn a_checkpoint_is_due_after_the_interval_whatever_the_clock_does() {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;
    let minutes = |m: u64| Duration::from_secs(60 * m);
    let now = Rc::new(Cell::new(minutes(100)));
    let clock = Rc::clone(&now);
    let mut timer = SaveTimer::with_clock(minutes(5), move || clock.get());
    let mut due_at = |m| {
        now.set(minutes(m));
        timer.is_due()
    };
    assert_eq!([100, 104, 105, 200, 50].map(&mut due_at), [false, false, true, true, false]);
    now.set(minutes(105));
    timer.saved();
    let mut due_at = |m| {
        now.set(minutes(m));
        timer.is_due()
    };
    assert_eq!([105, 109, 3, 110].map(&mut due_at), [false, false, false, true]);
    assert!(SaveTimer::new(Duration::ZERO).is_due() && !SaveTimer::new(minutes(60)).is_due());
}

/// Every optimizer and every random or stateful setting continues with the same bits after an interruption.
#[test]
fn every_setting_resumes_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
    let adamw = OptimizerConfig::AdamW(AdamWConfig::default());
    let lamb = OptimizerConfig::Lamb(LambConfig::default());
    let bce = Loss::Bce { threshold: Some(0.2) };
    let plain = config(2);
    let configs = [
        TrainConfig { optimizer: adamw, lr: 0.002, clip: Some(Clip::Norm(0.5)), ..plain.clone() },
        TrainConfig { optimizer: lamb, lr: 0.005, loss: bce, decay_of: DecayOf::Weights, ..plain.clone() },
        TrainConfig { drop_path: 0.5, clip: Some(Clip::Value(0.01)), layer_decay: 0.5, ..plain.clone() },
        TrainConfig { freeze: "stem,layer1".parse().unwrap(), freeze_norms: true, ..plain.clone() },
    ];
    let mut all: Vec<Vec<f64>> = Vec::new();
    for config in configs {
        let (mut whole, mut watch) = (trainer_of(config.clone()), record(usize::MAX));
        whole.run(&NOISE, &mut watch).unwrap();
        let mut first = record(2);
        trainer_of(config.clone()).run(&NOISE, &mut first).unwrap();
        let mut resumed = trainer_of(config.clone());
        resumed.restore(&Checkpoint::load(&file, &Device::Cpu).unwrap(), &file).unwrap();
        let mut second = record(usize::MAX);
        resumed.run(&NOISE, &mut second).unwrap();
        assert_eq!([first.losses, second.losses].concat(), watch.losses, "{config:?}");
        assert_eq!(weights(&resumed.checkpoint()), weights(&whole.checkpoint()), "{config:?}");
        all.push(watch.losses);
    }
    let (mut plain, mut watch) = (trainer_of(plain), record(usize::MAX));
    plain.run(&NOISE, &mut watch).unwrap();
    assert!(
        all.iter().all(|losses| *losses != watch.losses && losses.len() == 10),
        "a setting has no effect"
    );
    // The state of one optimizer is not taken for another's.
    let checkpoint = plain.checkpoint();
    let mut other = trainer_of(TrainConfig { optimizer: adamw, ..config(1) });
    let error = other.restore(&checkpoint, &file).unwrap_err().to_string();
    assert!(error.contains("its optimizer is another one"), "{error}");
}

/// Frozen parts and norms keep their bits; everything else moves.
#[test]
fn what_is_frozen_does_not_move() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let bits = |trainer: &Trainer| -> BTreeMap<String, Vec<u32>> {
        let bits = |t: &Tensor| {
            t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
        };
        trainer.checkpoint().tensors.iter().map(|(name, t)| (name.clone(), bits(t))).collect()
    };
    let moved = |change: TrainConfig| -> Vec<String> {
        let mut trainer = trainer_of(change);
        let before = bits(&trainer);
        let mut watch = Recorder { losses: vec![], epochs: vec![], file: &file, stop_after: 2 };
        trainer.run(&NOISE, &mut watch).unwrap();
        let after = bits(&trainer);
        before.keys().filter(|name| before[*name] != after[*name]).cloned().collect()
    };
    let all = trainer(1).checkpoint().tensors.len();
    assert_eq!(moved(config(1)).len(), all);
    let behind = moved(TrainConfig { freeze: "stem,layer1,layer2".parse().unwrap(), ..config(1) });
    assert!(behind.iter().all(|name| name.starts_with("layer3.") || name.starts_with("fc.")), "{behind:?}");
    assert!(behind.contains(&"layer3.0.bn1.running_mean".to_string()) && behind.len() < all);
    let without = moved(TrainConfig { freeze_norms: true, ..config(1) });
    assert!(without.iter().all(|name| !name.contains("bn") && !name.contains("downsample.1")), "{without:?}");
    assert!(without.contains(&"layer1.0.conv2.weight".to_string()));
    let head = moved(TrainConfig { freeze: "stem,layer1,layer2,layer3".parse().unwrap(), ..config(1) });
    assert_eq!(head, ["fc.bias", "fc.weight"]);
}

#[test]
fn a_run_starts_from_trained_weights_with_a_new_head() {
    let weights_of = |trainer: &Trainer| trainer.checkpoint().tensors;
    let trained = Trainer::new(
        &Config { classes: 7, ..model() },
        TrainConfig { seed: 8, ..config(1) },
        serde_json::Value::Null,
        &Device::Cpu,
    );
    let trained = weights_of(&trained.unwrap());
    let mut trainer = trainer(1);
    let before = weights_of(&trainer);
    let refused = trainer.start_from(&trained, resnext_model::Head::Loaded, Path::new("seven.pth"));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("seven.pth does not fit") && refused.contains("fc.weight"), "{refused}");
    trainer.start_from(&trained, resnext_model::Head::Fresh, Path::new("seven.pth")).unwrap();
    let after = trainer.checkpoint();
    for (name, value) in &after.tensors {
        let want = if name.starts_with("fc.") { &before[name] } else { &trained[name] };
        assert_eq!(flat(value), flat(want), "{name}");
        assert_eq!(flat(&after.average[name]), flat(want), "the average of {name}");
    }
}

#[test]
fn a_run_that_no_longer_improves_ends_early() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    // With every part frozen but the head, and a rate of almost 0, no epoch is better than the first.
    let still = TrainConfig { epochs: 9, lr: 1e-12, ema: 0.0, early_stopping: 2, ..config(1) };
    let still = TrainConfig { freeze: "stem,layer1,layer2,layer3".parse().unwrap(), ..still };
    let mut watch = Recorder { losses: vec![], epochs: vec![], file: &file, stop_after: usize::MAX };
    let mut trainer = trainer_of(still.clone());
    assert_eq!(trainer.run(&NOISE, &mut watch).unwrap(), Outcome::EarlyStopped);
    assert_eq!((watch.epochs.len(), trainer.progress().best_epoch), (3, 1));
    // It is over after resumption, too, unless it is given more patience.
    let checkpoint = Checkpoint::load(&file, &Device::Cpu).unwrap();
    let mut again = trainer_of(still.clone());
    again.restore(&checkpoint, &file).unwrap();
    assert!(again.is_over());
    let mut patient = trainer_of(TrainConfig { early_stopping: 3, ..still });
    patient.restore(&checkpoint, &file).unwrap();
    assert_eq!(patient.run(&NOISE, &mut watch).unwrap(), Outcome::EarlyStopped);
    assert_eq!(watch.epochs.len(), 4);
}
