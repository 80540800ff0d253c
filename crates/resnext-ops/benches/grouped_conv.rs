//! The grouped 3×3 of ResNeXt-50 32×4d at its four stages, batch 8, ours beside candle's own:
//! `cargo bench -p resnext-ops`.

use candle_core::{Device, Tensor, Var};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use resnext_ops::{Conv2dConfig, conv2d, to_channels_last, value_and_gradients};
use std::hint::black_box;
use std::time::Duration;

const STAGES: [(usize, usize); 4] = [(128, 56), (256, 28), (512, 14), (1024, 7)];
const BATCH: usize = 8;
const GROUPS: usize = 32;

fn inputs(channels: usize, side: usize) -> (Tensor, Var) {
    let x = Tensor::randn(0f32, 1.0, (BATCH, channels, side, side), &Device::Cpu).unwrap();
    let weight = Var::randn(0f32, 0.1, (channels, channels / GROUPS, 3, 3), &Device::Cpu).unwrap();
    (x, weight)
}

fn grouped_conv(c: &mut Criterion) {
    let config = Conv2dConfig { padding: 1, groups: GROUPS, ..Default::default() };
    for pass in ["forward", "forward+backward"] {
        let mut group = c.benchmark_group(format!("grouped 3x3 {pass}"));
        group.sample_size(10).measurement_time(Duration::from_secs(3));
        for (channels, side) in STAGES {
            let name = format!("{channels}x{side}x{side}");
            let (x, weight) = inputs(channels, side);
            let ours = to_channels_last(&x).unwrap();
            let training = pass != "forward";
            // Both inputs get a gradient.
            let (x, ours_var) = (Var::from_tensor(&x).unwrap(), Var::from_tensor(&ours).unwrap());
            group.bench_function(BenchmarkId::new("resnext-ops", &name), |b| {
                b.iter(|| {
                    if !training {
                        return black_box(conv2d(&ours, &weight.detach(), &config).unwrap());
                    }
                    let loss = || {
                        conv2d(&ours_var, &weight, &config)
                            .and_then(|y| resnext_ops::global_avg_pool(&y))
                            .and_then(|y| resnext_ops::linear(&y, &ones(channels), None))
                            .and_then(|y| resnext_ops::cross_entropy(&y, &labels(), 0.0))
                    };
                    black_box(value_and_gradients(loss).unwrap().0)
                });
            });
            group.bench_function(BenchmarkId::new("candle", &name), |b| {
                b.iter(|| {
                    if !training {
                        return black_box(
                            x.as_detached_tensor().conv2d(&weight.detach(), 1, 1, 1, GROUPS).unwrap(),
                        );
                    }
                    let y = x.conv2d(&weight, 1, 1, 1, GROUPS).unwrap();
                    let loss = y.mean_all().unwrap();
                    black_box(loss.backward().unwrap().get(&weight).unwrap().clone())
                });
            });
        }
        group.finish();
    }
}

fn ones(channels: usize) -> Tensor {
    Tensor::ones((1, channels), candle_core::DType::F32, &Device::Cpu).unwrap()
}

fn labels() -> Tensor {
    Tensor::zeros(BATCH, candle_core::DType::U32, &Device::Cpu).unwrap()
}

criterion_group!(benches, grouped_conv);
criterion_main!(benches);
