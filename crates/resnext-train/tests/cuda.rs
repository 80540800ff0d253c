//! Training steps on a CUDA device, compared with the CPU's. Without a device the tests print that they were
//! skipped; `scripts/cuda/emulate.sh` runs them on an emulated one.
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Tensor};
use resnext_model::{Config, ResNext, StemKind, Variables};
use resnext_ops::{cross_entropy, cuda, value_and_gradients};
use resnext_train::{
    Amp, BatchReport, Batches, Checkpoint, Data, EpochReport, Error, Observer, Result, Sgd, SgdConfig,
    TrainConfig, Trainer,
};
use std::sync::{Mutex, MutexGuard, PoisonError};

const BATCH: usize = 4;

/// Opens the device for one test at a time, because the list of launches belongs to the process.
fn device(test: &str) -> Option<(Device, MutexGuard<'static, ()>)> {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    match cuda::open(0) {
        Ok(device) => Some((device, one)),
        Err(error) => {
            let error = error.to_string();
            eprintln!("skipped: {test} needs a CUDA device: {}", error.lines().next().unwrap_or_default());
            None
        }
    }
}

/// The operations that the emulated device has executed so far; none for a real device, which keeps no list.
fn executed() -> Option<Vec<String>> {
    let file = std::env::var_os("EMULATED_LOG")?;
    Some(std::fs::read_to_string(file).unwrap().lines().map(str::to_string).collect())
}

/// The list of launches must equal what the device executed, including candle's casts, copies and fills.
fn check_list(launched: &[cuda::Launched], before: Option<Vec<String>>) {
    let (Some(before), Some(all)) = (before, executed()) else { return };
    // The device knows kernels by their names only, without the `-OPTION=value` that they were compiled with.
    let kernel = |l: &cuda::Launched| {
        let name = l.name.trim_start_matches("candle: ");
        if l.grid == [0; 3] {
            name.to_string()
        } else {
            name.split('-').next().unwrap_or_default().to_string()
        }
    };
    let listed: Vec<String> = launched.iter().map(kernel).collect();
    assert_eq!(listed, all[before.len()..]);
}

/// Trains two steps from fixed weights on fixed images. Returns the losses, the resulting weights and
/// averages, and the launches of the last step.
fn train(
    config: &Config,
    device: &Device,
    half: Option<DType>,
) -> (Vec<f64>, Vec<(String, Tensor)>, Vec<cuda::Launched>) {
    let variables = Variables::new(7, DType::F32, device);
    let mut network = ResNext::new(config, variables.builder()).unwrap();
    network.set_mixed_precision(half).unwrap();
    let all = variables.all();
    let running: Vec<_> = all.iter().filter(|(name, _)| name.contains("running")).cloned().collect();
    let sgd = Sgd::new(variables.trainable(), SgdConfig::default()).unwrap();
    let mut sgd = sgd.with_average(0.9, running).unwrap();
    let pixel = |i: usize| ((i * 7919) % 255) as f32 / 128.0 - 1.0;
    let images = Tensor::from_iter((0..BATCH * 3 * 32 * 32).map(pixel), &Device::Cpu).unwrap();
    let images = images.reshape((BATCH, 3, 32, 32)).unwrap().to_device(device).unwrap();
    let labels = Tensor::new(&[1u32, 9, 0, 4], device).unwrap();
    let (mut losses, mut launched) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let before = executed();
        let (loss, launches) = cuda::launches(|| {
            let (loss, gradients) = value_and_gradients(|| -> Result<Tensor> {
                Ok(cross_entropy(&network.forward(&images, true)?, &labels, 0.1)?)
            })
            .unwrap();
            sgd.step(0.01, |variable| gradients.get(variable)).unwrap();
            loss
        });
        if device.is_cuda() {
            check_list(&launches, before);
        }
        losses.push(f64::from(loss.to_scalar::<f32>().unwrap()));
        launched = launches;
    }
    let averages = sgd.averages().into_iter().map(|(name, average)| (format!("average {name}"), average));
    let weights = all.into_iter().chain(averages);
    (losses, weights.map(|(name, v)| (name, v.to_device(&Device::Cpu).unwrap())).collect(), launched)
}

#[test]
fn training_steps_are_the_cpus() {
    let Some((device, _one)) = device("training_steps_are_the_cpus") else { return };
    let cifar = Config::by_name("resnext11_8x4d").unwrap();
    let imagenet = Config { stem: StemKind::ImageNet, ..cifar.clone() };
    for (config, half, tolerance) in
        [(&cifar, None, 1e-3), (&imagenet, None, 1e-3), (&imagenet, Some(DType::BF16), 5e-2)]
    {
        let (want, want_weights, _) = train(config, &Device::Cpu, half);
        let (got, weights, launches) = train(config, &device, half);
        for (got, want) in got.iter().zip(&want) {
            println!("{half:?}: losses {got} {want}");
            assert!((got - want).abs() < tolerance, "{half:?}: losses {got} {want}");
        }
        for ((name, got), (_, want)) in weights.iter().zip(&want_weights) {
            let scale =
                want.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
            let worst = (got - want).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            let worst = f64::from(worst.to_scalar::<f32>().unwrap() / scale.max(0.1));
            assert!(worst < 10.0 * tolerance, "{half:?}: {name} is {worst} off");
        }
        // Twelve convolutions with batch norm, including shortcuts: few launches for each.
        let count = |what: &str| launches.iter().filter(|l| l.name.starts_with(what)).count();
        assert_eq!(count("sgd"), 1);
        let copies = launches.iter().filter(|l| l.name.contains("ucopy")).count();
        assert!(copies <= 2 && count("candle") <= 40, "{launches:?}");
        assert!(launches.len() < 20 * 12, "{}", launches.len());
        println!("{} launches in a step, {half:?}", launches.len());
    }
}

/// One batch of images given by a formula, with these labels.
struct Labelled([u32; BATCH], Device);

impl Data for Labelled {
    fn images_per_epoch(&self) -> usize {
        BATCH
    }
    fn batch_size(&self) -> usize {
        BATCH
    }
    fn image_size(&self) -> (usize, usize) {
        (16, 16)
    }
    fn fingerprint(&self) -> String {
        String::new()
    }
    fn train(&self, _: usize, _: usize) -> Batches<'_> {
        let pixel = |i: usize| ((i * 7919) % 255) as f32 / 128.0 - 1.0;
        let images = Tensor::from_iter((0..BATCH * 3 * 16 * 16).map(pixel), &self.1).unwrap();
        let images = images.reshape((BATCH, 3, 16, 16)).unwrap();
        Box::new(std::iter::once(Ok((images, Tensor::new(&self.0, &self.1).unwrap()))))
    }
    fn test(&self) -> Batches<'_> {
        self.train(0, 0)
    }
}

#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn on_batch(&mut self, report: &BatchReport) {
        self.0.push(report.loss);
    }
    fn on_epoch(&mut self, _: &EpochReport) -> Result<()> {
        Ok(())
    }
    fn save(&mut self, _: &Checkpoint, _: bool) -> Result<()> {
        Ok(())
    }
    fn should_stop(&self) -> bool {
        false
    }
}

fn trainer(amp: Amp, device: &Device) -> Trainer {
    let config =
        TrainConfig { epochs: 1, lr: 0.01, label_smoothing: 0.1, seed: 3, amp, ..Default::default() };
    let model = Config { classes: 10, ..Config::by_name("resnext11_8x4d").unwrap() };
    Trainer::new(&model, config, serde_json::Value::Null, device).unwrap()
}

/// A label that is out of range ends a run with the same error as on the CPU, before any weight changes, and
/// without synchronising host and device in every step.
#[test]
fn labels_out_of_range_end_training() {
    let Some((device, _one)) = device("labels_out_of_range_end_training") else { return };
    for device in [Device::Cpu, device] {
        let mut losses = Losses::default();
        let mut trainer = trainer(Amp::Off, &device);
        let error = trainer.run(&Labelled([1, 9, 10, 0], device.clone()), &mut losses).unwrap_err();
        assert!(matches!(error, Error::Op(resnext_ops::Error::Value { .. })), "{error:?}");
        assert!(error.to_string().contains("label 10 of example 2 is not below 10"), "{error}");
        assert!(losses.0.is_empty());
    }
}

/// `tf32` uses TF32 kernels in training and f32 kernels in evaluation, with a loss close to f32's.
#[test]
fn tf32_is_used_for_training_only() {
    let Some((device, _one)) = device("tf32_is_used_for_training_only") else { return };
    let run = |amp: Amp| {
        let mut losses = Losses::default();
        let data = Labelled([1, 9, 0, 4], device.clone());
        let list = cuda::launches(|| trainer(amp, &device).run(&data, &mut losses).unwrap()).1;
        let count = |what: &str| list.iter().filter(|l| l.name.starts_with(what)).count();
        let by = [
            "grouped3x3_f32",
            "grouped3x3_weight_f32",
            "grouped3x3-ELEMENT=float",
            "grouped3x3_weight-ELEMENT=float",
        ];
        (losses.0[0], by.map(count))
    };
    let (f32, tf32) = (run(Amp::Off), run(Amp::Tf32));
    assert!((f32.0 - tf32.0).abs() < 1e-2, "{} and {}", f32.0, tf32.0);
    // Three blocks: forward, both gradients and evaluation.
    assert_eq!((f32.1, tf32.1), ([9, 3, 0, 0], [3, 0, 6, 3]));
}
