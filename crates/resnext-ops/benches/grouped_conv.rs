//! The grouped 3×3 convolutions of ResNeXt-50 32×4d's four stages at batch 8, beside candle's own:
//! `cargo bench -p resnext-ops`.
//!
//! Forward and backward are of one loss, the mean of the output: in candle's graph for both, and on this
//! crate's tape.

use candle_core::{Device, Tensor, Var};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use resnext_ops::{Conv2dConfig, conv2d, to_channels_last, vjp};
use std::hint::black_box;
use std::time::Duration;

/// Channels, and pixels along a side.
const STAGES: [(usize, usize); 4] = [(128, 56), (256, 28), (512, 14), (1024, 7)];
const BATCH: usize = 8;
const GROUPS: usize = 32;

fn inputs(channels: usize, side: usize) -> (Tensor, Var) {
    let x = Tensor::randn(0f32, 1.0, (BATCH, channels, side, side), &Device::Cpu).unwrap();
    let weight = Var::randn(0f32, 0.1, (channels, channels / GROUPS, 3, 3), &Device::Cpu).unwrap();
    (x, weight)
}

fn forward(c: &mut Criterion) {
    let config = Conv2dConfig { padding: 1, groups: GROUPS, ..Default::default() };
    let mut group = c.benchmark_group("grouped 3x3 forward");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for (channels, side) in STAGES {
        let name = format!("{channels}x{side}x{side}");
        let (x, weight) = inputs(channels, side);
        let (nhwc, weight) = (to_channels_last(&x).unwrap(), weight.as_detached_tensor());
        group.bench_function(BenchmarkId::new("resnext-ops", &name), |b| {
            b.iter(|| black_box(conv2d(&nhwc, &weight, &config).unwrap()));
        });
        group.bench_function(BenchmarkId::new("candle", &name), |b| {
            b.iter(|| black_box(x.conv2d(&weight, 1, 1, 1, GROUPS).unwrap()));
        });
    }
    group.finish();
}

/// Gradients of the mean of the output, for both the input and the weight.
fn forward_and_backward(c: &mut Criterion) {
    let config = Conv2dConfig { padding: 1, groups: GROUPS, ..Default::default() };
    let mut group = c.benchmark_group("grouped 3x3 forward+backward");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for (channels, side) in STAGES {
        let name = format!("{channels}x{side}x{side}");
        let (x, weight) = inputs(channels, side);
        let nhwc = Var::from_tensor(&to_channels_last(&x).unwrap()).unwrap();
        let x = Var::from_tensor(&x).unwrap();
        let in_graph = |y: Tensor, x: &Var| {
            let gradients = y.mean_all().unwrap().backward().unwrap();
            black_box((gradients.get(x).unwrap().clone(), gradients.get(&weight).unwrap().clone()))
        };
        group.bench_function(BenchmarkId::new("resnext-ops", &name), |b| {
            b.iter(|| in_graph(conv2d(&nhwc, &weight, &config).unwrap(), &nhwc));
        });
        // The mean's gradient is one constant for all elements.
        let elements = BATCH * channels * side * side;
        let cotangent = Tensor::full(1.0 / elements as f32, x.shape(), &Device::Cpu).unwrap();
        let cotangent = to_channels_last(&cotangent).unwrap();
        group.bench_function(BenchmarkId::new("resnext-ops on its tape", &name), |b| {
            b.iter(|| black_box(vjp(|| conv2d(&nhwc, &weight, &config), &cotangent).unwrap()));
        });
        group.bench_function(BenchmarkId::new("candle", &name), |b| {
            b.iter(|| in_graph(x.conv2d(&weight, 1, 1, 1, GROUPS).unwrap(), &x));
        });
    }
    group.finish();
}

criterion_group!(benches, forward, forward_and_backward);
criterion_main!(benches);
