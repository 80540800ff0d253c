//! Training: numbers against PyTorch's, interrupted runs, and settings.

mod baseline;
mod distributed;
mod pytorch;
mod resumption;

use candle_core::{DType, Device, Tensor};
use resnext_model::{Config, Form, Weights};
use resnext_train::checkpoint::{assign, replace_file};
use resnext_train::*;
use std::collections::BTreeMap;
use std::path::Path;

fn fill(len: u64, salt: u64) -> Vec<f64> {
    (0..len).map(|i| ((i * 2654435761 + salt * 40503) % (1 << 32)) as f64 / 2147483648.0 - 1.0).collect()
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
