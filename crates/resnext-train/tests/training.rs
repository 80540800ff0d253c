//! The optimizer against PyTorch, learning-rate schedules, checkpoints, and interrupted runs.

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
    let step = Schedule::Step { warmup: 0.1, milestones: vec![0.5, 0.75], factor: 0.1 };
    for (at, want) in [(0, 0.1), (9, 1.0), (49, 1.0), (50, 0.1), (99, 0.01)] {
        assert!((rate(&step, at) - want).abs() < 1e-12, "step {at}");
    }
    let cosine = Schedule::Cosine { warmup: 0.0 };
    assert!((rate(&cosine, 0) - 1.0).abs() < 1e-12 && (rate(&cosine, 50) - 0.5).abs() < 1e-12);
    let cycle = Schedule::OneCycle { warmup: 0.3 };
    assert!((rate(&cycle, 0) - 0.04).abs() < 1e-12 && (rate(&cycle, 30) - 1.0).abs() < 1e-12);
    for schedule in [step, cosine, cycle] {
        assert!((0..=100).all(|i| (0.0..=1.0).contains(&rate(&schedule, i))));
        schedule.validate().unwrap();
    }
    assert!(Schedule::Cosine { warmup: 2.0 }.validate().is_err());
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

/// Thirty images of noise (3, 8, 8), in batches of six.
struct Noise;

impl Noise {
    fn batches(&self, salt: u64, first: usize) -> Batches<'_> {
        Box::new((first as u64..5).map(move |i| {
            let images: Vec<f32> = fill(6 * 3 * 64, 100 * salt + i).iter().map(|&v| v as f32).collect();
            let labels: Vec<u32> = (0..6).map(|k| (k + i as u32) % 4).collect();
            Ok((Tensor::from_vec(images, (6, 3, 8, 8), &Device::Cpu)?, Tensor::new(labels, &Device::Cpu)?))
        }))
    }
}

impl Data for Noise {
    fn batches_per_epoch(&self) -> usize {
        5
    }
    fn train(&self, epoch: usize, first: usize) -> Batches<'_> {
        self.batches(epoch as u64 + 1, first)
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
        schedule: Schedule::default(),
        sgd: SgdConfig::default(),
        label_smoothing: 0.1,
        accumulate,
        seed: 3,
        ema: 0.9,
        grad_checkpoint: false,
        amp: Amp::Off,
    }
}

fn model() -> Config {
    Config { classes: 4, ..Config::by_name("resnext11_4x4d").unwrap() }
}

fn trainer(accumulate: usize) -> Trainer {
    trainer_of(config(accumulate))
}

fn trainer_of(config: TrainConfig) -> Trainer {
    Trainer::new(&model(), config, serde_json::json!({"name": "test"}), &Device::Cpu).unwrap()
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
        assert_eq!(whole.run(&Noise, &mut watch).unwrap(), Outcome::Finished);

        let mut losses = Vec::new();
        let mut epochs = Vec::new();
        let mut first = record(2);
        assert_eq!(trainer(accumulate).run(&Noise, &mut first).unwrap(), Outcome::Stopped);
        losses.extend(first.losses);
        epochs.extend(first.epochs);
        loop {
            let checkpoint = Checkpoint::load(&file, &Device::Cpu).unwrap();
            let mut resumed = trainer(accumulate);
            resumed.restore(&checkpoint, &file).unwrap();
            let mut watch = record(3);
            let outcome = resumed.run(&Noise, &mut watch).unwrap();
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

/// Mixed precision gives losses close to f32's but not equal to them, the same bits after an interruption,
/// and files in f32.
#[test]
fn mixed_precision_trains_like_f32_and_resumes_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
    let of = |amp| trainer_of(TrainConfig { amp, lr: 0.002, ..config(1) });
    let (mut wide, mut whole, mut again) = (record(usize::MAX), record(usize::MAX), record(usize::MAX));
    of(Amp::Off).run(&Noise, &mut wide).unwrap();
    let checkpointing = TrainConfig { amp: Amp::Bf16, grad_checkpoint: true, lr: 0.002, ..config(1) };
    trainer_of(checkpointing).run(&Noise, &mut again).unwrap();
    let mut trainer = of(Amp::Bf16);
    trainer.run(&Noise, &mut whole).unwrap();
    assert_ne!(wide.losses, whole.losses);
    assert_eq!(again.losses, whole.losses);
    for (wide, mixed) in wide.losses.iter().zip(&whole.losses) {
        assert!((wide / mixed - 1.0).abs() < 0.1, "{wide} in f32, {mixed} with bf16");
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!((mean(&wide.losses) / mean(&whole.losses) - 1.0).abs() < 0.03, "{:?}", whole.losses);

    let mut first = record(3);
    of(Amp::Bf16).run(&Noise, &mut first).unwrap();
    let stopped = Checkpoint::load(&file, &Device::Cpu).unwrap();
    let Checkpoint { tensors, momentum, average, .. } = &stopped;
    let saved = tensors.values().chain(momentum.values()).chain(average.values());
    assert!(saved.into_iter().all(|t| t.dtype() == DType::F32));
    let (mut resumed, mut second) = (of(Amp::Bf16), record(usize::MAX));
    resumed.restore(&stopped, &file).unwrap();
    resumed.run(&Noise, &mut second).unwrap();
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
    whole.run(&Noise, &mut stayed).unwrap();
    of(Form::A).run(&Noise, &mut record(2)).unwrap();
    let stopped = Checkpoint::load(&file, &Device::Cpu).unwrap();
    assert!(stopped.momentum.contains_key("layer1.0.paths.3.conv3.weight"));
    for form in [Form::B, Form::C] {
        let converted = stopped.clone().into_form(form).unwrap();
        let back = converted.clone().into_form(Form::A).unwrap();
        assert!(weights(&back) == weights(&stopped), "other bits after form ({form})");
        let mut resumed = of(form);
        resumed.restore(&converted, &file).unwrap();
        let mut changed = record(usize::MAX);
        resumed.run(&Noise, &mut changed).unwrap();
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
        assert!(text.contains("not a whole safetensors file") && !text.contains('\n'), "{text}");
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

#[test]
fn settings_out_of_range_are_refused() {
    let refused = |change: fn(&mut TrainConfig)| {
        let mut config = config(1);
        change(&mut config);
        Trainer::new(&model(), config, serde_json::Value::Null, &Device::Cpu).unwrap_err().to_string()
    };
    assert!(refused(|c| c.epochs = 0).contains("epochs must be at least 1, got 0"));
    assert!(refused(|c| c.lr = f64::NAN).contains("learning rate must be above 0"));
    assert_eq!(refused(|c| c.sgd.momentum = 1.0), "momentum must be from 0 to below 1, got 1");
    assert_eq!(refused(|c| c.sgd.momentum = 0.0), "Nesterov momentum needs a momentum above 0");
    assert_eq!(refused(|c| c.sgd.weight_decay = -1.0), "weight decay must be at least 0, got -1");
    assert_eq!(refused(|c| c.ema = 1.0), "the average's decay must be from 0 to below 1, got 1");
    assert_eq!(refused(|c| c.label_smoothing = 1.5), "label smoothing must be from 0 to 1, got 1.5");
    assert!("fp16".parse::<Amp>().unwrap_err().to_string().contains("off, bf16 or tf32, not `fp16`"));
    assert!(refused(|c| c.amp = Amp::Tf32).contains("mixed precision tf32 needs a CUDA device"));
    assert_eq!(refused(|c| c.accumulate = 0), "accumulate must be at least 1, got 0");
}
