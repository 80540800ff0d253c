//! The inference network gives the logits of the network it was built from.

use candle_core::{DType, Device, Tensor};
use resnext_model::{BlockKind, Calibration, Config, Form, Fused, Ranges, ResNext, Shortcut, Variables};

const CPU: Device = Device::Cpu;

fn network(config: &Config) -> ResNext {
    let variables = Variables::new(11, DType::F32, &CPU);
    let network = ResNext::new(config, variables.builder()).unwrap();
    // Batch norms that are not the identity, so that folding them wrongly shows.
    for (name, var) in variables.all() {
        if let &[n] = var.dims() {
            let uneven = (0..n).map(|i| 1.0 + 0.3 * ((i + name.len()) as f32).sin()).collect::<Vec<_>>();
            var.set(&Tensor::new(uneven, &CPU).unwrap()).unwrap();
        }
    }
    network
}

fn images(n: usize, h: usize, w: usize) -> Tensor {
    let waves = (0..n * 3 * h * w).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>();
    Tensor::from_vec(waves, (n, 3, h, w), &CPU).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn agree(config: &Config, x: &Tensor) {
    let network = network(config);
    let (expected, fused) = (values(&network.forward(x, false).unwrap()), network.fuse().unwrap());
    let largest = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
    assert!(largest > 0.1);
    // Twice, because the second pass reuses buffers.
    for _ in 0..2 {
        let got = fused.forward(x).unwrap();
        assert_eq!(got.dims(), [x.dims()[0], config.classes]);
        for (g, e) in values(&got).iter().zip(&expected) {
            assert!((g - e).abs() <= 1e-4 * largest, "{config:?}: {g}, not {e}");
        }
    }
}

#[test]
fn logits_are_those_of_the_unfused_network() {
    // Groups narrower and wider than a vector, and depthwise; both stems; sizes that are not square.
    for name in ["resnext11_8x4d", "resnext11_32x1d", "resnext11_3x5d", "resnext11_2x40d", "resnext11_16x16d"]
    {
        agree(&Config::by_name(name).unwrap(), &images(2, 20, 13));
    }
    let config = Config { depths: vec![1, 2, 1, 1], ..Config::by_name("resnext50_32x4d").unwrap() };
    agree(&config, &images(1, 64, 97));
    agree(&config, &images(3, 32, 32));
}

#[test]
fn basic_blocks_fuse() {
    // Widths that fill vectors and some that don't.
    for planes in [64, 10] {
        for shortcut in [Shortcut::Projection, Shortcut::Identity] {
            let resnet18 = Config::by_name("resnet18").unwrap();
            let config = Config { planes, base_width: planes, depths: vec![2, 1, 2], shortcut, ..resnet18 };
            agree(&config, &images(2, 45, 38));
        }
    }
}

#[test]
fn any_form_and_shortcut_fuses() {
    for form in [Form::A, Form::B, Form::C] {
        for shortcut in [Shortcut::Projection, Shortcut::Identity, Shortcut::None] {
            let config = Config { form, shortcut, ..Config::by_name("resnext11_4x4d").unwrap() };
            agree(&config, &images(1, 17, 17));
            // Widths of stages that do not double.
            agree(&Config { base_width: 3, widths: vec![3, 5, 14], ..config }, &images(1, 17, 17));
        }
    }
}

/// Networks with deep stems, pooled shortcuts, attention and anti-aliasing.
fn relatives() -> impl Iterator<Item = (&'static str, Config)> {
    ["seresnextaa14d_8x4d", "ecaresnetblur10t", "seresnet14s"].into_iter().map(|name| {
        let config = Config { planes: 16, base_width: 4, ..Config::by_name(name).unwrap() };
        match config.block {
            BlockKind::Basic => (name, Config { base_width: 16, ..config }),
            BlockKind::Bottleneck => (name, config),
        }
    })
}

#[test]
fn timms_relatives_in_bf16_are_near_those_in_f32() {
    for (name, config) in relatives() {
        let network = network(&config);
        let x = images(2, 64, 64);
        let logits = |dtype| values(&network.fuse_to(dtype).unwrap().forward(&x).unwrap());
        let (want, got) = (logits(DType::F32), logits(DType::BF16));
        let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| v * v).sum::<f32>().sqrt();
        let error = norm(&mut got.iter().zip(&want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied());
        assert!(error < 0.02, "{name}: {error}");
    }
}

/// At sides that do not divide.
#[test]
fn timms_relatives_fuse() {
    for (_, config) in relatives() {
        agree(&config, &images(1, 70, 94));
        agree(&config, &images(3, 64, 40));
        let network = network(&config);
        let mut calibration = Calibration::new();
        network.fuse().unwrap().calibrate(&images(1, 64, 64), &mut calibration).unwrap();
        let error = network.fuse_quantized(&calibration.ranges().unwrap()).unwrap_err().to_string();
        assert!(error.contains("computes in f32 or bf16, not in int8"), "{error}");
    }
}

#[test]
fn unusual_images_have_defined_results() {
    let network = network(&Config::by_name("resnext11_8x4d").unwrap());
    for dtype in [DType::F32, DType::BF16] {
        unusual_images(&network.fuse_to(dtype).unwrap());
    }
}

fn unusual_images(fused: &Fused) {
    assert_eq!(fused.forward(&images(0, 8, 8)).unwrap().dims(), [0, 10]);
    let nan = (images(1, 8, 8) * f64::NAN).unwrap();
    assert!(values(&fused.forward(&nan).unwrap()).iter().all(|v| v.is_nan()));
    let x = images(4, 8, 8);
    let one = Tensor::cat(&[&x.narrow(0, 0, 2).unwrap(), &nan, &x.narrow(0, 3, 1).unwrap()], 0).unwrap();
    let (got, want) = (values(&fused.forward(&one).unwrap()), values(&fused.forward(&x).unwrap()));
    assert!(got[20..30].iter().all(|v| v.is_nan()));
    assert!(got[..20] == want[..20] && got[30..] == want[30..]);
    let error = fused.forward(&Tensor::zeros((1, 4, 8, 8), DType::F32, &CPU).unwrap()).unwrap_err();
    assert!(error.to_string().contains("expected images (N, 3, H, W)"), "{error}");
    let error = fused.forward(&images(1, 8, 8).to_dtype(DType::F64).unwrap()).unwrap_err();
    assert!(error.to_string().contains("F32"), "{error}");
}

/// Logits in bf16 are near those in f32, and are not themselves rounded to bf16.
#[test]
fn logits_of_bf16_are_f32() {
    let network = network(&Config::by_name("resnext11_8x4d").unwrap());
    let x = images(3, 32, 32);
    let logits = |dtype| values(&network.fuse_to(dtype).unwrap().forward(&x).unwrap());
    let (want, got) = (logits(DType::F32), logits(DType::BF16));
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| v * v).sum::<f32>().sqrt();
    let error = norm(&mut got.iter().zip(&want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied());
    assert!(error < 0.02, "{error}");
    assert!(got.iter().any(|v| v.to_bits() & 0xffff != 0), "logits are rounded");
}

#[test]
fn an_image_has_the_same_bits_in_any_batch() {
    let config = Config::by_name("resnext11_8x4d").unwrap();
    let fused = network(&config).fuse().unwrap();
    let x = images(9, 32, 32);
    let alone: Vec<f32> =
        (0..9).flat_map(|i| values(&fused.forward(&x.narrow(0, i, 1).unwrap()).unwrap())).collect();
    // The last stage computes three images of this size at once, and those that are left over.
    for n in [9, 8, 7, 2] {
        let together = values(&fused.forward(&x.narrow(0, 0, n).unwrap()).unwrap());
        assert!(together == alone[..together.len()], "of {n}");
    }
}

#[test]
fn one_network_takes_any_sizes_in_turn_and_errors_in_between() {
    let network = network(&Config::by_name("resnext11_8x4d").unwrap());
    let kept = network.fuse().unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for (n, h, w) in [(4, 40, 30), (1, 9, 9), (5, 13, 50), (2, 40, 30), (3, 520, 505), (1, 40, 30)] {
        let x = images(n, h, w);
        let want = values(&network.fuse().unwrap().forward(&x).unwrap());
        assert!(values(&pool.install(|| kept.forward(&x)).unwrap()) == want, "{n} images of {h}×{w}");
        let wrong = x.to_dtype(DType::F64).unwrap();
        assert!(pool.install(|| kept.forward(&wrong)).is_err());
    }
}

#[test]
fn calls_at_the_same_time_do_not_mix() {
    let fused = network(&Config::by_name("resnext11_8x4d").unwrap()).fuse().unwrap();
    let batches: Vec<Tensor> = (1..5).map(|n| (images(n, 30, 20) * n as f64).unwrap()).collect();
    let want: Vec<Vec<f32>> = batches.iter().map(|x| values(&fused.forward(x).unwrap())).collect();
    std::thread::scope(|scope| {
        for (x, want) in batches.iter().zip(&want) {
            let fused = &fused;
            scope.spawn(move || (0..20).for_each(|_| assert!(values(&fused.forward(x).unwrap()) == *want)));
        }
    });
}

#[test]
fn logits_are_the_same_bits_for_any_number_of_threads() {
    let config = Config { depths: vec![1, 1], ..Config::by_name("resnext50_32x4d").unwrap() };
    let fused = network(&config).fuse().unwrap();
    // Threads share one image; compute one image each; and share those that are left over.
    for n in [1, 5] {
        let x = images(n, 50, 40);
        let bits = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let logits = pool.install(|| fused.forward(&x).unwrap());
            values(&logits).into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = bits(1);
        for threads in [2, 3, 7] {
            assert!(bits(threads) == one, "{n} images on {threads} threads");
        }
    }
}

#[test]
fn an_observed_pass_gives_the_same_logits_and_reports_every_layer() {
    let config = Config::by_name("resnext11_8x4d").unwrap();
    let (fused, x) = (network(&config).fuse().unwrap(), images(3, 32, 32));
    let mut reported = Vec::new();
    let observed = fused.forward_observed(&x, &mut |name, _| reported.push(name.to_string())).unwrap();
    assert_eq!(values(&observed), values(&fused.forward(&x).unwrap()));
    let times = |name: &str| reported.iter().filter(|reported| *reported == name).count();
    // The last stage computes all three images at once.
    assert_eq!(["input", "conv1", "layer2.0.conv2", "layer3.0.conv2", "fc"].map(times), [3, 3, 3, 1, 1]);
}

/// The ranges of the network's maps on some batches.
fn ranges(network: &ResNext, batches: &[&Tensor]) -> Ranges {
    let (fused, mut calibration) = (network.fuse().unwrap(), Calibration::new());
    batches.iter().for_each(|x| fused.calibrate(x, &mut calibration).unwrap());
    calibration.ranges().unwrap()
}

#[test]
fn logits_of_int8_are_near_those_of_f32() {
    let named = |name: &str| Config::by_name(name).unwrap();
    let identity = Config { shortcut: Shortcut::Identity, ..named("resnext11_4x4d") };
    let basic = Config { planes: 10, base_width: 10, depths: vec![1, 2], ..named("resnet18") };
    let imagenet = Config { depths: vec![1, 2, 1, 1], ..named("resnext50_32x4d") };
    let narrow =
        ["resnext11_8x4d", "resnext11_32x1d", "resnext11_3x5d", "resnext11_2x40d", "resnext11_16x16d"];
    for config in narrow.map(named).into_iter().chain([identity, basic, imagenet]) {
        let network = network(&config);
        let x = images(2, 34, 45);
        let quantized = network.fuse_quantized(&ranges(&network, &[&images(1, 40, 33), &x])).unwrap();
        assert_eq!(quantized.dtype(), DType::U8);
        let expected = values(&network.forward(&x, false).unwrap());
        let rms = |values: &[f32]| (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        for _ in 0..2 {
            let got = values(&quantized.forward(&x).unwrap());
            let differences: Vec<f32> = got.iter().zip(&expected).map(|(g, e)| g - e).collect();
            let error = rms(&differences) / rms(&expected);
            assert!(error > 0.0 && error < 0.01, "{config:?}: {error}");
        }
    }
}

#[test]
fn int8_gives_the_same_bits_in_any_batch_and_on_any_threads() {
    let network = network(&Config::by_name("resnext11_8x4d").unwrap());
    let x = images(5, 32, 32);
    let quantized = network.fuse_quantized(&ranges(&network, &[&x])).unwrap();
    let together = values(&quantized.forward(&x).unwrap());
    let alone: Vec<f32> =
        (0..5).flat_map(|i| values(&quantized.forward(&x.narrow(0, i, 1).unwrap()).unwrap())).collect();
    assert_eq!(alone, together);
    for threads in [1, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| values(&quantized.forward(&x).unwrap())), together);
    }
    // Values that int8 cannot express make the logits of their image NaN, and of no other.
    for spoilt in [f64::NAN, f64::INFINITY] {
        let spoilt = (x.narrow(0, 1, 1).unwrap().abs().unwrap() * spoilt).unwrap();
        let x = Tensor::cat(&[x.narrow(0, 0, 1).unwrap(), spoilt, x.narrow(0, 2, 3).unwrap()], 0).unwrap();
        let got = values(&quantized.forward(&x).unwrap());
        assert!(got[10..20].iter().all(|v| v.is_nan()), "{:?}", &got[10..20]);
        assert!(got[..10] == together[..10] && got[20..] == together[20..]);
    }
    assert_eq!(quantized.forward(&images(0, 8, 8)).unwrap().dims(), [0, 10]);
    let error = quantized.calibrate(&x, &mut Calibration::new()).unwrap_err().to_string();
    assert!(error.contains("in int8 already"), "{error}");
    let error = network.fuse_quantized(&Ranges::default()).unwrap_err().to_string();
    assert!(error.contains("expected the range of the map conv1"), "{error}");
    let mut calibration = Calibration::new();
    network.fuse().unwrap().calibrate(&(x * f64::NAN).unwrap(), &mut calibration).unwrap();
    let error = calibration.ranges().unwrap_err().to_string();
    assert!(error.contains("expected finite numbers"), "{error}");
}

/// The last stage gathers several images. Maps of odd widths do not fill their last vector of narrow values.
#[test]
fn narrow_types_keep_images_of_odd_widths() {
    let config =
        Config { planes: 11, base_width: 11, depths: vec![1, 1], ..Config::by_name("resnet18").unwrap() };
    let network = network(&config);
    let x = images(3, 40, 36);
    let int8 = network.fuse_quantized(&ranges(&network, &[&x])).unwrap();
    for fused in [network.fuse_to(DType::BF16).unwrap(), int8] {
        let together = values(&fused.forward(&x).unwrap());
        let alone: Vec<f32> =
            (0..3).flat_map(|i| values(&fused.forward(&x.narrow(0, i, 1).unwrap()).unwrap())).collect();
        assert!(together == alone, "{:?}", fused.dtype());
    }
}
