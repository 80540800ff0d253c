//! Training steps on a CUDA device beside the CPU's. Without a device this says that it was skipped;
//! `scripts/cuda/emulate.sh` runs it on one that the CPU emulates.
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Tensor};
use resnext_model::{Config, ResNext, Stem, Variables};
use resnext_ops::{cross_entropy, cuda, value_and_gradients};
use resnext_train::{Result, Sgd, SgdConfig};

const BATCH: usize = 4;

/// The losses of some steps from the same first weights on the same images, the weights they led to, and the launches
/// of the last step.
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
        let (loss, launches) = cuda::launches(|| {
            let (loss, gradients) = value_and_gradients(|| -> Result<Tensor> {
                Ok(cross_entropy(&network.forward(&images, true)?, &labels, 0.1)?)
            })
            .unwrap();
            sgd.step(0.01, |variable| gradients.get(variable)).unwrap();
            loss
        });
        losses.push(f64::from(loss.to_scalar::<f32>().unwrap()));
        launched = launches;
    }
    let averages = sgd.averages().into_iter().map(|(name, average)| (format!("average {name}"), average));
    let weights = all.into_iter().chain(averages);
    (losses, weights.map(|(name, v)| (name, v.to_device(&Device::Cpu).unwrap())).collect(), launched)
}

#[test]
fn training_steps_are_the_cpus() {
    let device = match cuda::open(0) {
        Ok(device) => device,
        Err(error) => {
            let error = error.to_string();
            eprintln!("skipped: needs a CUDA device: {}", error.lines().next().unwrap_or_default());
            return;
        }
    };
    let cifar = Config::by_name("resnext11_8x4d").unwrap();
    let imagenet = Config { stem: Stem::ImageNet, ..cifar.clone() };
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
        // Twelve convolutions with batch norm, shortcuts included: none takes a chain of launches.
        let count = |what: &str| launches.iter().filter(|l| l.name.starts_with(what)).count();
        assert_eq!(count("sgd"), 1);
        assert!(count("candle") <= 2, "{launches:?}");
        assert!(launches.len() < 20 * 12, "{}", launches.len());
        println!("{} launches in a step, {half:?}", launches.len());
    }
}
