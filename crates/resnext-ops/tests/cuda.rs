//! Operations on a CUDA device against the CPU in f64. Without a device these tests print that they were
//! skipped; that every kernel compiles is checked on any machine. `scripts/cuda/emulate.sh` runs them on a
//! device that the CPU emulates. Of candle's kernels it has only copies and casts, so the tests use no
//! others.
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Tensor, Var};
use resnext_ops::cuda::{Convolutions, SgdParameter, SgdSettings};
use resnext_ops::{BatchNormConfig, Conv2dConfig, Pool2dConfig, RunningStats, cuda, vjp};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Runs one test at a time: the choice of implementation and the list of launches belong to the process.
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

/// A tensor of pseudo-random numbers in -1..=1 that every type can represent, so that all devices get the
/// same.
fn fill(shape: &[usize], salt: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + salt * 104729) % 255) as f64 / 128.0 - 1.0;
    Tensor::from_iter((0..count).map(value), &Device::Cpu).unwrap().reshape(shape).unwrap()
}

fn to(t: &Tensor, device: &Device, dtype: DType) -> Tensor {
    t.to_dtype(dtype).unwrap().to_device(device).unwrap()
}

/// A variable shaped like `t` with one value everywhere.
fn filled(value: f64, t: &Tensor) -> Var {
    let values = Tensor::full(value, t.shape(), &Device::Cpu).unwrap();
    Var::from_tensor(&to(&values, t.device(), t.dtype())).unwrap()
}

/// The largest difference, relative to the largest expected value.
fn difference(got: &Tensor, expected: &Tensor) -> f64 {
    let host = |t: &Tensor| {
        let t = t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
        t.flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    assert_eq!(got.dims(), expected.dims());
    let (got, expected) = (host(got), host(expected));
    let largest = expected.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
    let worst = got
        .iter()
        .zip(&expected)
        .fold(0.0, |m: f64, (a, b)| if (a - b).is_nan() { f64::INFINITY } else { m.max((a - b).abs()) });
    worst / largest
}

/// The tolerance for rounding: a few units in the last place of the type, and f32 sums.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 2e-2,
        DType::F16 => 3e-3,
        _ => 1e-4,
    }
}

const TYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Runs `f` on variables of the given values, on the CPU in f64 and on the device in every type, and compares
/// its result and all gradients. `half` says which inputs have the type; the others stay f32.
fn compare(
    name: &str,
    device: &Device,
    inputs: &[(Tensor, bool)],
    f: impl Fn(&[Tensor]) -> resnext_ops::Result<Tensor>,
) {
    let run = |device: &Device, dtype: DType, other: DType| {
        let make = |(t, half): &(Tensor, bool)| {
            Var::from_tensor(&to(t, device, if *half { dtype } else { other })).unwrap()
        };
        let variables: Vec<Var> = inputs.iter().map(make).collect();
        let tensors: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
        let y = f(&tensors).unwrap();
        let cotangent = to(&fill(y.dims(), 99), device, y.dtype());
        let (y, gradients) = vjp(|| f(&tensors), &cotangent).unwrap();
        let gradients = variables.iter().map(|v| gradients.get(v).expect("a gradient").clone());
        std::iter::once(y).chain(gradients).collect::<Vec<_>>()
    };
    let expected = run(&Device::Cpu, DType::F64, DType::F64);
    for dtype in TYPES {
        let got = run(device, dtype, DType::F32);
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let what = if i == 0 { "result".to_string() } else { format!("gradient {}", i - 1) };
            let worst = difference(got, expected);
            assert!(worst < tolerance(dtype), "{name} {dtype:?}, {what}: {worst}");
        }
    }
}

#[test]
fn convolutions() {
    let Some((device, _one)) = device("convolutions") else { return };
    let routes: &[Convolutions] = if cfg!(feature = "cudnn") {
        &[Convolutions::Auto, Convolutions::Ours, Convolutions::Cudnn]
    } else {
        &[Convolutions::Auto, Convolutions::Ours]
    };
    // Channels in, out, groups, kernel, stride, padding, side.
    let cases = [
        (32, 32, 8, 3, 1, 1, 9),
        (64, 64, 8, 3, 2, 1, 14),
        (128, 128, 8, 3, 1, 1, 7),
        (128, 128, 4, 3, 2, 1, 15),
        (64, 64, 16, 3, 1, 1, 30),
        (32, 32, 8, 3, 2, 1, 140),
        (72, 72, 18, 3, 1, 1, 70),
        (24, 48, 1, 1, 1, 0, 10),
        (24, 48, 1, 1, 2, 0, 10),
        (3, 64, 1, 7, 2, 3, 33),
        (16, 16, 16, 3, 1, 1, 8),
        (18, 12, 6, 3, 1, 2, 8),
    ];
    for &route in routes {
        cuda::set_convolutions(route).unwrap();
        for (input, output, groups, kernel, stride, padding, side) in cases {
            let config = Conv2dConfig { stride, padding, dilation: 1, groups };
            let x = fill(&[2, input, side, side], 1);
            let weight = fill(&[output, input / groups, kernel, kernel], 2);
            let name = format!("{route:?} {input}→{output}, {groups} groups, {kernel}×{kernel} /{stride}");
            compare(&name, &device, &[(x, true), (weight, false)], |t| {
                resnext_ops::conv2d(&t[0], &t[1], &config)
            });
        }
    }
    cuda::set_convolutions(Convolutions::Auto).unwrap();
}

/// With TF32, tensor cores compute grouped 3×3 convolutions of f32. TF32 represents the numbers used here
/// exactly.
#[test]
fn tf32_where_it_may_be() {
    let Some((device, _one)) = device("tf32_where_it_may_be") else { return };
    for (channels, groups, stride, side) in
        [(32, 8, 1, 9), (64, 8, 2, 14), (64, 4, 1, 7), (64, 4, 2, 15), (96, 3, 1, 21), (64, 2, 2, 6)]
    {
        let config = Conv2dConfig { padding: 1, stride, groups, dilation: 1 };
        let inputs = [
            (fill(&[2, channels, side, side], 1), true),
            (fill(&[channels, channels / groups, 3, 3], 2), false),
        ];
        let run = |tf32: bool| {
            let compare = || {
                compare("conv2d", &device, &inputs, |t| resnext_ops::conv2d(&t[0], &t[1], &config));
            };
            cuda::with_tf32(tf32, || cuda::launches(compare)).1
        };
        let names = |list: &[cuda::Launched], what: &str| list.iter().any(|l| l.name.contains(what));
        let (exact, rounded) = (run(false), run(true));
        for kernel in ["grouped3x3", "grouped3x3_weight"] {
            let (by_f32, by_cores) = (format!("{kernel}_f32-"), format!("{kernel}-ELEMENT=float"));
            assert!(names(&exact, &by_f32) && !names(&exact, &by_cores));
            assert!(names(&rounded, &by_cores) && !names(&rounded, &by_f32));
        }
    }
}

/// The emulated cuDNN has no algorithm for a dilation of 3: that is an error if cuDNN must compute, else
/// this project's kernel does.
#[cfg(feature = "cudnn")]
#[test]
fn without_an_algorithm_of_cudnns() {
    let Some((device, _one)) = device("without_an_algorithm_of_cudnns") else { return };
    if std::env::var_os("EMULATED_LOG").is_none() {
        eprintln!("skipped: only the emulated cuDNN lacks algorithms");
        return;
    }
    let config = Conv2dConfig { padding: 3, dilation: 3, ..Default::default() };
    let inputs = [(fill(&[2, 6, 9, 8], 1), true), (fill(&[4, 6, 3, 3], 2), false)];
    compare("dilated", &device, &inputs, |t| resnext_ops::conv2d(&t[0], &t[1], &config));
    cuda::set_convolutions(Convolutions::Cudnn).unwrap();
    let [x, weight] = inputs.map(|(t, _)| to(&t, &device, DType::F32));
    let error = resnext_ops::conv2d(&x, &weight, &config).unwrap_err().to_string();
    cuda::set_convolutions(Convolutions::Auto).unwrap();
    assert!(error.contains("cuDNN has no usable algorithm"), "{error}");
}

/// There is one launch, or one and a sum, whatever the number of groups, plus those that reorder x or a
/// library's weights.
#[test]
fn launches_do_not_grow_with_groups() {
    let Some((device, _one)) = device("launches_do_not_grow_with_groups") else { return };
    let count = |groups: usize| {
        let x = to(&fill(&[2, 128, 8, 8], 1), &device, DType::BF16);
        let weight = to(&fill(&[128, 128 / groups, 3, 3], 2), &device, DType::F32);
        let config = Conv2dConfig { padding: 1, groups, ..Default::default() };
        let (y, launches) = cuda::launches(|| resnext_ops::conv2d(&x, &weight, &config).unwrap());
        let x = x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)).unwrap();
        let back = cuda::launches(|| vjp(|| resnext_ops::conv2d(&x, &weight, &config), &y).unwrap()).1;
        (launches.len(), back.len())
    };
    let counts = [4, 8, 16, 32, 64, 128].map(count);
    assert!(counts.iter().all(|c| c.0 <= 4 && c.1 <= 8), "{counts:?}");
}

#[test]
fn batch_norm() {
    let Some((device, _one)) = device("batch_norm") else { return };
    for (relu, channels) in [(false, 24), (true, 24), (true, 7), (true, 256)] {
        let inputs = [
            (fill(&[3, channels, 6, 5], 1), true),
            (fill(&[channels], 2), false),
            (fill(&[channels], 3), false),
        ];
        compare("batch norm", &device, &inputs, |t| {
            let like = |value: f64| filled(value, &t[1]);
            let running = RunningStats { mean: like(0.1), var: like(0.9) };
            let config = BatchNormConfig { relu, ..Default::default() };
            let y = resnext_ops::batch_norm_train(&t[0], &t[1], &t[2], &running, &config)?;
            let eval =
                resnext_ops::batch_norm_eval(&t[0], &t[1], &t[2], &running.mean, &running.var, &config)?;
            // The second result shows the running statistics, because they normalise it.
            resnext_ops::add(&y, &eval)
        });
    }
}

#[test]
fn batch_norm_with_residual() {
    let Some((device, _one)) = device("batch_norm_with_residual") else { return };
    for channels in [64, 7] {
        let residual = (fill(&[3, channels, 6, 5], 4), true);
        let x = (fill(&[3, channels, 6, 5], 1), true);
        let inputs = [x, (fill(&[channels], 2), false), (fill(&[channels], 3), false), residual];
        compare("batch norm + residual", &device, &inputs, |t| {
            let like = |value: f64| filled(value, &t[1]);
            let running = RunningStats { mean: like(0.1), var: like(0.9) };
            let config = BatchNormConfig::default();
            resnext_ops::batch_norm_train_add_relu(&t[0], &t[1], &t[2], &running, &t[3], &config)
        });
    }
}

#[test]
fn pooling_and_elements() {
    let Some((device, _one)) = device("pooling_and_elements") else { return };
    for channels in [16, 5] {
        let x = [(fill(&[2, channels, 9, 8], 1), true)];
        let config = Pool2dConfig { kernel: 3, stride: 2, padding: 1 };
        compare("max pool", &device, &x, |t| resnext_ops::max_pool2d(&t[0], &config));
        compare("average pool", &device, &x, |t| resnext_ops::global_avg_pool(&t[0]));
        compare("relu", &device, &x, |t| resnext_ops::relu(&t[0]));
        let two = [x[0].clone(), (fill(&[2, channels, 9, 8], 2), true)];
        compare("add", &device, &two, |t| resnext_ops::add(&t[0], &t[1]));
        compare("add relu", &device, &two, |t| resnext_ops::add_relu(&t[0], &t[1]));
    }
    let (x, weight, bias) = (fill(&[6, 40], 1), fill(&[10, 40], 2), fill(&[10], 3));
    compare("linear", &device, &[(x, true), (weight, false), (bias, false)], |t| {
        resnext_ops::linear(&t[0], &t[1], Some(&t[2]))
    });
}

#[test]
fn cross_entropy() {
    let Some((device, _one)) = device("cross_entropy") else { return };
    for smoothing in [0.0, 0.1] {
        compare("cross-entropy", &device, &[(fill(&[5, 300], 1), true)], |t| {
            let labels = Tensor::new(&[0u32, 299, 7, 7, 120], t[0].device())?;
            resnext_ops::cross_entropy(&t[0], &labels, smoothing)
        });
    }
}

/// A label that is out of range is found when the loss is read, which otherwise waits for the device once.
#[test]
fn labels_that_are_no_class() {
    let Some((device, _one)) = device("labels_that_are_no_class") else { return };
    let logits = to(&fill(&[4, 10], 1), &device, DType::F32);
    let value = |labels: [u32; 4]| {
        let labels = Tensor::new(&labels, &device).unwrap();
        let loss = resnext_ops::cross_entropy(&logits, &labels, 0.1).unwrap();
        resnext_ops::loss_value(&loss, &labels, 10)
    };
    assert!(value([1, 9, 0, 2]).unwrap() > 0.0);
    let error = value([1, 10, 3, 11]).unwrap_err();
    assert!(matches!(error, resnext_ops::Error::Value { .. }));
    assert!(error.to_string().contains("label 10 of example 1 is not below 10"), "{error}");
}

#[test]
fn optimizer_step() {
    let Some((device, _one)) = device("optimizer_step") else { return };
    let settings = SgdSettings { learning_rate: 0.1, momentum: 0.9, nesterov: true, decay: 1e-2, keep: 0.9 };
    let shapes: [&[usize]; 3] = [&[5000], &[3, 7, 3, 3], &[1]];
    let var = |shape: &[usize], salt| Var::from_tensor(&to(&fill(shape, salt), &device, DType::F32)).unwrap();
    let values: Vec<[Var; 4]> =
        shapes.iter().enumerate().map(|(i, s)| [1, 2, 3, 4].map(|k| var(s, 10 * i + k))).collect();
    let parameters: Vec<SgdParameter> = values
        .iter()
        .map(|[value, momentum, gradient, average]| SgdParameter {
            value,
            moved: Some((momentum, gradient.as_tensor())),
            average: Some(average),
        })
        .collect();
    let ((), launches) = cuda::launches(|| cuda::sgd_step(&parameters, &settings).unwrap());
    // The table of parameters, and the step.
    assert_eq!(launches.len(), 2);
    for (i, [value, momentum, _, average]) in values.iter().enumerate() {
        let before = [1, 2, 3, 4].map(|k| fill(shapes[i], 10 * i + k));
        let g = (&before[2] + (&before[0] * 1e-2).unwrap()).unwrap();
        let b = ((&before[1] * 0.9).unwrap() + &g).unwrap();
        let direction = (&g + (&b * 0.9).unwrap()).unwrap();
        let moved = (&before[0] - (direction * 0.1).unwrap()).unwrap();
        let averaged = ((&before[3] * 0.9).unwrap() + (&moved * 0.1).unwrap()).unwrap();
        for (what, got, expected) in
            [("momentum", momentum, &b), ("value", value, &moved), ("average", average, &averaged)]
        {
            assert!(difference(got, expected) < 1e-6, "{what} {i}");
        }
    }
}

/// All kernels in all forms, by NVRTC, without a device. `RESNEXT_PTX` names a folder to write the PTX to.
#[test]
fn every_kernel_compiles() {
    for capability in [(8, 0), (9, 0)] {
        let all = cuda::ptx_of_all(capability).unwrap();
        assert!(all.len() > 100, "{}", all.len());
        if let Some(folder) = std::env::var_os("RESNEXT_PTX") {
            let folder = std::path::Path::new(&folder).join(format!("sm_{}{}", capability.0, capability.1));
            std::fs::create_dir_all(&folder).unwrap();
            for (name, ptx) in &all {
                std::fs::write(folder.join(name.replace('=', "_")).with_extension("ptx"), ptx).unwrap();
            }
        }
        println!("{} modules for {capability:?}", all.len());
    }
    // Older devices get an error that says why.
    assert!(cuda::ptx_of_all((7, 5)).unwrap_err().to_string().contains("8.0"));
}
