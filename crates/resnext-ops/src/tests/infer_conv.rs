//! Packed convolutions of inference against `conv2d`.

use crate::infer::conv::{FusedConv, Fusion};
use crate::infer::feature_map::FeatureMap;
use crate::infer::input::InputImages;
use crate::tests::fallback::fallback_conv2d;
use crate::train::conv2d::{conv2d, conv2d_with_bias};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use resnext_kernels::{Conv2dConfig, Isa, MapType, Quantization, ThreadTeam};

fn values(dims: &[usize], seed: u32) -> Tensor {
    let value = |i: u32| (i.wrapping_mul(2654435761).wrapping_add(seed * 40503) >> 8) as f32;
    let values: Vec<f32> =
        (0..dims.iter().product::<usize>() as u32).map(|i| value(i) / 8388608.0 - 1.0).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    let difference = (a - b).unwrap().abs().unwrap();
    difference.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// `conv(x)` as f32, plus the residual if there is one, and through ReLU if `relu` is set.
fn fused(conv: &FusedConv, x: &Tensor, residual: Option<&Tensor>, relu: bool) -> Tensor {
    let (mut input, mut added, mut out) = <(FeatureMap, FeatureMap, FeatureMap)>::default();
    let dtype = |maps| if maps == MapType::Bf16 { DType::BF16 } else { DType::F32 };
    // Whether the machine has cores for them or not.
    ThreadTeam::scope_of(rayon::current_num_threads(), |team| {
        input.load(team, x, dtype(conv.reads)).unwrap();
        if let Some(residual) = residual {
            added.load(team, residual, dtype(conv.writes)).unwrap();
        }
        let fusion = Fusion { residual: residual.map(|_| &added), relu, ahead: &[conv] };
        conv.forward(team, &input, fusion, &mut out).unwrap();
    });
    out.to_tensor().unwrap()
}

/// Winograd's inner products, on CPUs with separate adders: tiles of every size, several tasks, full and
/// partial blocks of channels.
#[test]
fn wide_convolutions_agree_with_conv2d_and_keep_images_apart() {
    for (n, cin, cout, h, w) in [
        (0, 256, 64, 3, 3),
        (3, 256, 64, 1, 1),
        (2, 320, 128, 7, 7),
        (2, 64, 192, 9, 11),
        (2, 512, 64, 14, 17),
    ] {
        let (x, weight) = (values(&[n, cin, h, w], 1), values(&[cout, cin, 1, 1], 2));
        let (bias, residual) = (values(&[cout], 3), values(&[n, cout, h, w], 4));
        let config = Conv2dConfig::default();
        let want = conv2d(&x, &weight, &config).unwrap();
        let want = want.broadcast_add(&bias.reshape((1, (), 1, 1)).unwrap()).unwrap();
        for isa in Isa::available() {
            let conv = FusedConv::on(isa, &weight, &bias, &config, DType::F32, false).unwrap();
            assert_eq!(conv.bytes() > 4 * (cin + 1) * cout, isa.has_adders(), "not in pairs");
            let run = |x: &Tensor, residual: Option<&Tensor>, relu| fused(&conv, x, residual, relu);
            let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let same = |got: Tensor, want: Tensor| {
                for (got, want) in flat(got).into_iter().zip(flat(want)) {
                    assert!((got - want).abs() < 3e-4, "{isa:?} {n}×{cin}×{h}×{w}: {got}, not {want}");
                }
            };
            same(run(&x, None, false), want.clone());
            same(run(&x, Some(&residual), true), (&want + &residual).unwrap().relu().unwrap());
            let together = run(&x, None, true);
            let image = |t: &Tensor, i: usize| flat(t.narrow(0, i, 1).unwrap());
            for i in 0..n {
                let others = (0..n).map(|j| match j == i {
                    true => x.narrow(0, i, 1).unwrap(),
                    false => (x.narrow(0, j, 1).unwrap() * f64::NAN).unwrap(),
                });
                let spoilt = run(&Tensor::cat(&others.collect::<Vec<_>>(), 0).unwrap(), None, true);
                let (got, alone) = (image(&spoilt, i), run(&x.narrow(0, i, 1).unwrap(), None, true));
                assert_eq!(got, image(&together, i), "an image's result depends on the others");
                assert_eq!(got, flat(alone), "an image's result depends on the batch");
                let spoilt = (0..n).filter(|&j| j != i).all(|j| image(&spoilt, j).iter().all(|y| y.is_nan()));
                assert!(spoilt, "NaN is lost");
            }
            for threads in [1, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let got = pool.install(|| run(&x, None, true));
                assert_eq!(flat(got), flat(together.clone()), "{threads} threads");
            }
        }
    }
}

/// 1×1 convolutions whose channels fill whole vectors: integers come out exactly, whatever the number of pixels that is left
/// over by the tiles, of channels that is left over by the blocks and vectors, and with a stride.
#[test]
fn pointwise_convolutions_are_exact_on_integers() {
    let whole = |dims: &[usize], seed| (values(dims, seed) * 4.0).unwrap().round().unwrap();
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let rows = (1..=20).map(|w| (1, 1, w, 1)).chain([(2, 7, 7, 1), (1, 9, 11, 2), (3, 10, 13, 2)]);
    for (n, h, w, stride) in rows {
        for (cin, cout) in [(8, 8), (40, 24), (264, 40), (520, 1000)] {
            if cout == 1000 && w % 7 != 0 {
                continue; // a few suffice
            }
            let (x, weight) = (whole(&[n, cin, h, w], 1), whole(&[cout, cin, 1, 1], 2));
            let bias = whole(&[cout], 3);
            let config = Conv2dConfig { stride, ..Default::default() };
            let want = fallback_conv2d(&x, &weight, &config);
            let want = want.broadcast_add(&bias.reshape((1, (), 1, 1)).unwrap()).unwrap();
            let residual = whole(want.dims(), 4);
            let with_residual = (&want + &residual).unwrap().relu().unwrap();
            for isa in Isa::available() {
                let conv = FusedConv::on(isa, &weight, &bias, &config, DType::F32, false).unwrap();
                let what = format!("{isa:?} {n}×{cin}×{h}×{w} to {cout}, stride {stride}");
                assert_eq!(flat(&fused(&conv, &x, None, false)), flat(&want), "{what}");
                assert_eq!(flat(&fused(&conv, &x, Some(&residual), true)), flat(&with_residual), "{what}");
            }
        }
    }
}

/// The error of a wide convolution is that of plain sums up to a small factor, whatever the scale of pixels
/// relative to weights, to each other or between output channels. For outputs of ReLU, which are never
/// negative, it is no larger.
#[test]
fn wide_convolutions_keep_their_precision_at_any_scale() {
    let (pixels, cin, cout) = (30, 1024, 32);
    for (x_scale, weight_scale, relu) in
        [(1.0, 0.03, true), (1e5, 1e-4, false), (1e-5, 1e3, true), (1e10, 1e-12, false), (1e-15, 1e10, true)]
    {
        // Neighbouring pixels differ by seven orders of magnitude, neighbouring channels' weights by three.
        let apart = |len: usize, by: f32| -> Vec<f32> { (0..len).map(|i| by.powi((i % 2) as i32)).collect() };
        let scales = Tensor::from_vec(apart(pixels, 1e7), (1, 1, 1, pixels), &Device::Cpu).unwrap();
        let x = (values(&[1, cin, 1, pixels], 1) * x_scale).unwrap().broadcast_mul(&scales).unwrap();
        let x = if relu { x.relu().unwrap() } else { x };
        let scales = Tensor::from_vec(apart(cout, 1e3), (cout, 1, 1, 1), &Device::Cpu).unwrap();
        let weight = (values(&[cout, cin, 1, 1], 2) * weight_scale).unwrap();
        let weight = weight.broadcast_mul(&scales).unwrap();
        let bias = Tensor::zeros(cout, DType::F32, &Device::Cpu).unwrap();
        let config = Conv2dConfig::default();
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let want = conv2d(&wide(&x), &wide(&weight), &config).unwrap();
        let norms = |t: &Tensor, dims: [usize; 3]| {
            wide(t).sqr().unwrap().sum_keepdim(dims.as_slice()).unwrap().sqrt().unwrap()
        };
        let norms = norms(&weight, [1, 2, 3])
            .reshape((1, cout, 1, 1))
            .unwrap()
            .broadcast_mul(&wide(&x).sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap())
            .unwrap();
        for isa in Isa::available() {
            let conv = FusedConv::on(isa, &weight, &bias, &config, DType::F32, false).unwrap();
            let error = (wide(&fused(&conv, &x, None, false)) - &want).unwrap().abs().unwrap();
            let error = error.broadcast_div(&norms).unwrap().flatten_all().unwrap();
            let error = error.max(0).unwrap().to_scalar::<f64>().unwrap();
            assert!(error < 2e-7, "{isa:?}, {x_scale} by {weight_scale}: {error:e} of the norms");
        }
    }
}

/// Integers that bf16 can represent, whose sums it cannot, come out exactly from every kernel, with an f32
/// residual.
#[test]
fn sums_that_are_written_in_f32_are_not_rounded() {
    let whole = |dims: &[usize], seed| (values(dims, seed) * 40.0).unwrap().round().unwrap();
    let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let pad = Conv2dConfig { padding: 1, ..Default::default() };
    for (c, k, kernel, groups, config) in [
        (200, 37, 1, 1, Conv2dConfig::default()),
        (31, 64, 1, 1, Conv2dConfig::default()),
        (32, 32, 3, 8, pad),
        (64, 64, 3, 2, pad),
        (6, 20, 3, 1, pad),
    ] {
        let config = Conv2dConfig { groups, ..config };
        let (x, weight) = (whole(&[2, c, 5, 6], 1), whole(&[k, c / groups, kernel, kernel], 2));
        let (bias, residual) = (whole(&[k], 3), whole(&[2, k, 5, 6], 4));
        let want = conv2d_with_bias(&x, &weight, &bias, &config).unwrap() + &residual;
        let want = flat(want.unwrap());
        assert!(want.iter().any(|&v| half::bf16::from_f32(v).to_f32() != v));
        for dtype in [DType::F32, DType::BF16] {
            let conv = FusedConv::writing_f32(&weight, &bias, &config, dtype).unwrap();
            let got = fused(&conv, &x, Some(&residual), false);
            assert_eq!(flat(got), want, "{dtype:?} {c} to {k}, {kernel}×{kernel}");
        }
    }
    let (weight, bias) = (values(&[4, 4, 1, 1], 1), values(&[4], 2));
    assert!(FusedConv::writing_f32(&weight, &bias, &Conv2dConfig::default(), DType::U8).is_err());
}

/// A residual is added unchanged, NaN and infinity included, and does not affect neighbouring channels.
#[test]
fn residuals_of_any_kind_are_added() {
    let channels = 32 + 21;
    let bias = Tensor::ones(channels, DType::F32, &Device::Cpu).unwrap();
    let weight = Tensor::zeros((channels, 64, 1, 1), DType::F32, &Device::Cpu).unwrap();
    let kinds = [f32::NAN, 0.5, f32::INFINITY, -2.0, f32::NEG_INFINITY, 1e30, -0.0];
    let residual: Vec<f32> = (0..channels).map(|i| kinds[i % kinds.len()]).collect();
    let want: Vec<f32> = residual.iter().map(|x| x + 1.0).collect();
    let residual = Tensor::from_vec(residual, (1, channels, 1, 1), &Device::Cpu).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        let conv = FusedConv::new(&weight, &bias, &Conv2dConfig::default(), dtype).unwrap();
        let got = fused(&conv, &values(&[1, 64, 1, 1], 3), Some(&residual), false);
        let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (i, (got, &want)) in got.into_iter().zip(&want).enumerate() {
            let close = got == want || (got.is_nan() && want.is_nan()) || (got / want - 1.0).abs() < 0.004;
            assert!(close, "{dtype:?} channel {i}: {got}, expected {want}");
        }
    }
}

/// Images with a border of zeros, whose pixels share words or do not, against padding. Images in another
/// convolution's format are refused.
#[test]
fn a_first_convolution_reads_images() {
    for (n, c, kernel, stride, h, w) in [
        (2, 3, 7, 2, 20, 24),
        (1, 3, 7, 2, 9, 11),
        (2, 3, 3, 1, 8, 7),
        (1, 5, 4, 2, 6, 9),
        (1, 2, 3, 3, 7, 8),
    ] {
        let (x, weight) = (values(&[n, c, h, w], 1), values(&[24, c, kernel, kernel], 2));
        let bias = values(&[24], 3);
        let border = kernel / 2;
        let padded = Conv2dConfig { stride, padding: border, ..Default::default() };
        let want = conv2d_with_bias(&x, &weight, &bias, &padded).unwrap();
        let config = Conv2dConfig { padding: 0, ..padded };
        for (isa, dtype, tolerance) in
            Isa::available().into_iter().flat_map(|isa| [(isa, DType::F32, 1e-4), (isa, DType::BF16, 0.1)])
        {
            let conv = FusedConv::on(isa, &weight, &bias, &config, dtype, true).unwrap();
            let (mut images, mut out) = (InputImages::new(), FeatureMap::new());
            for x in
                [&x, &x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)).unwrap()]
            {
                ThreadTeam::scope(|team| {
                    images.load(team, x, conv.input_format(), border).unwrap();
                    conv.forward_images(team, &images, Fusion::default(), &mut out).unwrap();
                });
                let largest = largest_difference(&out.to_tensor().unwrap(), &want);
                assert!(largest < tolerance, "{isa:?} {dtype:?} {c}×{kernel}: {largest}");
            }
            let other = FusedConv::on(isa, &weight, &bias, &config, dtype, false).unwrap();
            let wide = values(&[n, c + 1, h, w], 1);
            let result =
                ThreadTeam::scope(|team| InputImages::new().load(team, &wide, conv.input_format(), border));
            assert!(result.unwrap_err().to_string().contains("channels, got"));
            if conv.input_format() != other.input_format() {
                let result = ThreadTeam::scope(|team| {
                    other.forward_images(team, &images, Fusion::default(), &mut out)
                });
                assert!(result.unwrap_err().to_string().contains("channels apart"));
            }
        }
    }
}

/// Convolutions that read rows as runs are not tiled, though their sizes resemble groups with as many
/// channels in as out.
#[test]
fn few_channels_become_three_times_as_many() {
    for channels in [8, 16] {
        let (x, weight) = (values(&[1, channels, 6, 7], 1), values(&[3 * channels, channels, 3, 3], 2));
        let (config, bias) = (Conv2dConfig::default(), values(&[3 * channels], 3));
        let want = conv2d_with_bias(&x, &weight, &bias, &config).unwrap();
        for isa in Isa::available() {
            let conv = FusedConv::on(isa, &weight, &bias, &config, DType::F32, false).unwrap();
            let largest = largest_difference(&fused(&conv, &x, None, false), &want);
            assert!(largest < 1e-4, "{isa:?}: {largest}");
        }
    }
}

/// Winograd's tiles: integers come out exactly as from candle's own operations, whatever the padding, the
/// sides and the width of a group.
#[test]
fn tiles_are_exact_on_integers_and_keep_images_apart() {
    for (n, d, groups, h, w, padding) in [
        (0, 16, 2, 5, 5, 1),
        (1, 8, 4, 1, 1, 1),
        (2, 8, 2, 6, 5, 2),
        (2, 8, 4, 5, 5, 1),
        (1, 8, 2, 2, 5, 1),
        (2, 16, 2, 23, 21, 1),
        (2, 16, 2, 2, 3, 1),
        (3, 16, 1, 7, 7, 1),
        (2, 32, 2, 9, 6, 0),
        (1, 64, 2, 14, 15, 1),
        (1, 128, 1, 3, 4, 1),
    ] {
        let whole = |dims: &[usize], seed| (values(dims, seed) * 4.0).unwrap().round().unwrap();
        let (x, weight) = (whole(&[n, d * groups, h, w], 1), whole(&[d * groups, d, 3, 3], 2));
        let bias = whole(&[d * groups], 3);
        let config = Conv2dConfig { stride: 1, padding, dilation: 1, groups };
        let want = match n {
            0 => values(&[0, d * groups, h, w], 0),
            _ => fallback_conv2d(&x, &weight, &config),
        };
        let want = want.broadcast_add(&bias.reshape((1, (), 1, 1)).unwrap()).unwrap();
        let residual = whole(want.dims(), 4);
        let with_residual = (&want + &residual).unwrap().relu().unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for isa in Isa::available() {
            let conv = FusedConv::on(isa, &weight, &bias, &config, DType::F32, false).unwrap();
            // With AVX2, several groups of up to 32 channels are computed in rows.
            let in_rows = isa == Isa::Avx2 && groups > 1 && d <= 32;
            assert_eq!(conv.tiled(), !in_rows, "{isa:?} {d}");
            let run = |x: &Tensor, residual: Option<&Tensor>| fused(&conv, x, residual, residual.is_some());
            for threads in [1, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let (plain, added) = pool.install(|| (run(&x, None), run(&x, Some(&residual))));
                assert_eq!(flat(&plain), flat(&want), "{isa:?} {n}×{d}×{groups}, {h}×{w}");
                assert_eq!(flat(&added), flat(&with_residual), "{isa:?} {n}×{d}×{groups}, {h}×{w}");
            }
            let fractions = values(x.dims(), 5);
            let together = run(&fractions, None);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
            assert_eq!(flat(&pool.install(|| run(&fractions, None))), flat(&together), "5 threads");
            for i in 0..n {
                let alone = run(&fractions.narrow(0, i, 1).unwrap(), None);
                assert_eq!(flat(&alone), flat(&together.narrow(0, i, 1).unwrap()), "image {i} alone");
            }
            if n > 1 {
                let nan = (x.narrow(0, 0, 1).unwrap() * f64::NAN).unwrap();
                let got = run(&Tensor::cat(&[nan, x.narrow(0, 1, n - 1).unwrap()], 0).unwrap(), None);
                let rest = |t: &Tensor| flat(&t.narrow(0, 1, n - 1).unwrap());
                assert_eq!(rest(&got), rest(&want), "NaN reached another image");
                assert!(flat(&got.narrow(0, 0, 1).unwrap()).iter().all(|y| y.is_nan()));
            }
        }
    }
}

/// The weights, rounded to multiples of 1/127 of which those of two neighbours add up to at most 1, and once to 1 in each
/// output channel: quantization leaves them as they are.
fn in_127ths(weight: &Tensor, groups: usize) -> Tensor {
    let (cout, group_in, kh, kw) = weight.dims4().unwrap();
    let (taps, mut values) = (kh * kw, weight.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    for (k, weights) in values.chunks_mut(group_in * taps).enumerate() {
        weights.iter_mut().for_each(|w| *w = (*w * 127.0).round().clamp(-127.0, 127.0));
        weights[0] = -127.0;
        let first = k / (cout / groups) * group_in;
        for (one, other) in (0..group_in).filter(|c| (first + c).is_multiple_of(2)).map(|c| (c, c + 1)) {
            for tap in (0..taps).filter(|_| other < group_in) {
                let left = 127.0 - weights[one * taps + tap].abs();
                let other = &mut weights[other * taps + tap];
                *other = other.clamp(-left, left);
            }
        }
    }
    (Tensor::from_vec(values, weight.dims(), &Device::Cpu).unwrap() / 127.0).unwrap()
}

/// The largest distance of int8 outputs from sums in f64, in steps of the output. With weights as [`in_127ths`] makes them,
/// sums are exact, and it should be at most half a step. All instruction sets must agree to the bit.
fn quantized_error(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    config: &Conv2dConfig,
    residual: Option<&Tensor>,
    relu: bool,
) -> f64 {
    let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    let input = Quantization::positive(1.0).unwrap();
    let output = if relu { Quantization::positive(3.0) } else { Quantization::signed(3.0) }.unwrap();
    let maps = |t: &Tensor, quantization| {
        let (mut loaded, mut maps) = <(FeatureMap, FeatureMap)>::default();
        ThreadTeam::scope(|team| {
            loaded.load(team, t, DType::F32).unwrap();
            assert!(maps.quantize(team, &loaded, quantization).unwrap());
        });
        maps
    };
    let x = maps(&x.abs().unwrap(), input);
    let residual = residual.map(|r| maps(r, Quantization::signed(1.2).unwrap()));
    let [out, others @ ..] = &Isa::available()[..] else { panic!("there is plain Rust") };
    let compute = |&isa: &Isa| {
        let conv = FusedConv::quantized_on(isa, weight, bias, config, (input, output)).unwrap();
        let mut out = FeatureMap::new();
        let fusion = Fusion { residual: residual.as_ref(), relu, ahead: &[&conv] };
        ThreadTeam::scope(|team| conv.forward(team, &x, fusion, &mut out)).unwrap();
        out
    };
    let out = compute(out);
    for isa in others {
        assert!(compute(isa).values().eq(out.values()), "{isa:?} differs: {:?} {config:?}", weight.dims());
    }
    let mut want = conv2d(&wide(&x.to_tensor().unwrap()), &wide(weight), config).unwrap();
    want = want.broadcast_add(&wide(bias).reshape((1, (), 1, 1)).unwrap()).unwrap();
    if let Some(residual) = residual {
        want = (want + wide(&residual.to_tensor().unwrap())).unwrap();
    }
    let (step, zero) = (f64::from(output.step()), f64::from(output.zero()));
    let steps = |t: &Tensor| ((wide(t) / step).unwrap() + zero).unwrap();
    let want = steps(&want).clamp(0.0, 255.0).unwrap();
    let error = (steps(&out.to_tensor().unwrap()) - want).unwrap().abs().unwrap();
    error.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// The shapes of a network, in int8: numbers of pixels and channels that tiles, vectors and blocks do not divide, groups of
/// every width, and strides.
#[test]
fn int8_has_the_same_bits_with_every_instruction_set() {
    let dense = [
        (64, 8, 1, 1),
        (48, 24, 3, 1),
        (1088, 40, 5, 1),
        (576, 1000, 7, 1),
        (128, 64, 13, 2),
        (20, 16, 4, 1),
    ]
    .map(|(cin, cout, side, stride)| (1, cin, cout, 1, side, stride));
    let grouped = [(32, 4, 7, 1), (16, 4, 9, 2), (4, 4, 1, 1), (2, 8, 5, 1), (16, 8, 14, 2), (4, 16, 3, 1)]
        .into_iter()
        .chain([
            (1, 16, 6, 1),
            (8, 16, 7, 2),
            (2, 32, 8, 1),
            (3, 32, 2, 2),
            (2, 64, 5, 1),
            (3, 8, 6, 1),
            (6, 4, 5, 1),
        ])
        .map(|(groups, d, side, stride)| (groups, d, d, 3, side, stride));
    for (groups, group_in, group_out, kernel, side, stride) in dense.into_iter().chain(grouped) {
        let config = Conv2dConfig { stride, padding: kernel / 2, dilation: 1, groups };
        let x = values(&[2, groups * group_in, side, side + 1], 1);
        let weight = values(&[groups * group_out, group_in, kernel, kernel], 2);
        let weight = in_127ths(&(weight / ((group_in * kernel) as f64).sqrt()).unwrap(), groups);
        let bias = values(&[groups * group_out], 3);
        let [side, width] = [side, side + 1].map(|side| (side - 1) / stride + 1);
        let residual = values(&[2, groups * group_out, side, width], 4);
        for (residual, relu) in [(None, true), (Some(&residual), true), (None, false)] {
            let error = quantized_error(&x, &weight, &bias, &config, residual, relu);
            assert!(error < 0.501, "{groups}×{group_in} to {group_out}, {kernel}×{kernel}: {error} steps");
        }
    }
}

/// Pairs of the largest products, which just fit an i16, beside others that cancel them.
#[test]
fn int8_products_do_not_saturate() {
    for (groups, channels, kernel) in [(1, 96, 1), (32, 4, 3), (4, 16, 3), (1, 40, 3)] {
        let x = Tensor::ones((1, groups * channels, 6, 6), DType::F32, &Device::Cpu).unwrap();
        let weight = |i: usize| match (i % channels < channels / 2, i % 2) {
            (true, 0) => -64.0 / 127.0,
            (true, _) => -63.0 / 127.0,
            (false, 0) => 127.0 / 127.0,
            (false, _) => 0.0,
        };
        let count = groups * channels * channels * kernel * kernel;
        let weight: Vec<f32> = (0..count).map(|i| weight(i / (kernel * kernel))).collect();
        let weight =
            Tensor::from_vec(weight, (groups * channels, channels, kernel, kernel), &Device::Cpu).unwrap();
        let bias = Tensor::zeros(groups * channels, DType::F32, &Device::Cpu).unwrap();
        let config = Conv2dConfig { groups, ..Default::default() };
        let error = quantized_error(&x, &weight, &bias, &config, None, false);
        assert!(error < 0.501, "{groups}×{channels}: {error} steps");
        // The largest weights, side by side. They are rounded, but for all instruction sets alike.
        quantized_error(&x, &weight.ones_like().unwrap().neg().unwrap(), &bias, &config, None, false);
    }
}

/// On CPUs without instructions for bf16, weights are kept in bf16 and everything else is f32: the result is that of f32
/// with the rounded weights. Weights take half the memory, but for those of Winograd's tiles, which are sums.
#[test]
fn bf16_weights_are_widened_exactly() {
    let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (groups, group_in, group_out, kernel, stride) in [
        (1, 264, 40, 1, 1),
        (1, 520, 24, 1, 2),
        (1, 13, 21, 1, 1),
        (32, 4, 4, 3, 1),
        (8, 16, 16, 3, 2),
        (2, 64, 64, 3, 1),
        (1, 24, 40, 3, 2),
        (1, 3, 20, 7, 2),
    ] {
        let config = Conv2dConfig { stride, padding: kernel / 2, dilation: 1, groups };
        let x = values(&[2, groups * group_in, 9, 8], 1);
        let (weight, bias) =
            (values(&[groups * group_out, group_in, kernel, kernel], 2), values(&[groups * group_out], 3));
        let rounded = weight.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        for isa in Isa::available() {
            let conv =
                |weight: &Tensor, dtype| FusedConv::on(isa, weight, &bias, &config, dtype, false).unwrap();
            let (narrow, wide) = (conv(&weight, DType::BF16), conv(&rounded, DType::F32));
            if narrow.map_dtype() == DType::BF16 {
                continue; // native
            }
            let what = format!("{isa:?} {groups}×{group_in} to {group_out}, {kernel}×{kernel}");
            assert_eq!(flat(fused(&narrow, &x, None, true)), flat(fused(&wide, &x, None, true)), "{what}");
            let biases = 4 * groups * group_out.next_multiple_of(16);
            let half = narrow.bytes() <= wide.bytes() / 2 + biases;
            assert!(
                half || narrow.tiled() && narrow.bytes() == wide.bytes(),
                "{what}: {} bytes",
                narrow.bytes()
            );
        }
    }
}

/// A pool of more threads than cores computes the same bits.
#[test]
fn hundreds_of_threads_compute_the_same_bits() {
    let (x, weight, bias) = (values(&[1, 64, 30, 30], 1), values(&[96, 64, 1, 1], 2), values(&[96], 3));
    let conv = FusedConv::new(&weight, &bias, &Conv2dConfig::default(), DType::F32).unwrap();
    let [one, many] = [1, 256].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (mut input, mut out) = <(FeatureMap, FeatureMap)>::default();
        pool.install(|| {
            ThreadTeam::scope(|team| {
                input.load(team, &x, DType::F32).unwrap();
                conv.forward(team, &input, Fusion::default(), &mut out).unwrap();
            })
        });
        out.values().map(f32::to_bits).collect::<Vec<_>>()
    });
    assert_eq!(one, many);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    /// Every instruction set against `conv2d`, on shapes that reach every kind of tile.
    #[test]
    fn every_instruction_set_agrees_with_conv2d(
        (group_in, group_out, groups) in prop_oneof![
            (1usize..70, 1usize..70, Just(1usize)),
            prop_oneof![Just(1usize), Just(2), Just(4), Just(8), Just(16), Just(32)]
                .prop_flat_map(|d| (Just(d), Just(d), prop_oneof![Just(16usize), Just(32)])),
            (1usize..10, 1usize..10, 2usize..5),
        ],
        kernel in prop_oneof![Just(1usize), Just(3), Just(7)],
        (stride, dilation, padding) in (1usize..4, 1usize..3, 0usize..3),
        (h, w) in (1usize..20, 1usize..20),
        (with_residual, relu) in any::<(bool, bool)>(),
    ) {
        prop_assume!(h.min(w) + 2 * padding > (kernel - 1) * dilation);
        let config = Conv2dConfig { stride, padding, dilation, groups };
        let x = values(&[2, group_in * groups, h, w], 1);
        let weight = values(&[group_out * groups, group_in, kernel, kernel], 2);
        let bias = values(&[group_out * groups], 3);
        let mut want = conv2d(&x, &weight, &config).unwrap();
        want = want.broadcast_add(&bias.reshape((1, (), 1, 1)).unwrap()).unwrap();
        let residual = values(want.dims(), 4);
        if with_residual {
            want = (want + &residual).unwrap();
        }
        if relu {
            want = want.relu().unwrap();
        }
        let greatest = want.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        let (mut input, mut added, mut out) = <(FeatureMap, FeatureMap, FeatureMap)>::default();
        for (isa, dtype) in Isa::available().into_iter().flat_map(|isa| [(isa, DType::F32), (isa, DType::BF16)]) {
            let conv = FusedConv::on(isa, &weight, &bias, &config, dtype, false).unwrap();
            ThreadTeam::scope(|team| {
                input.load(team, &x, conv.map_dtype()).unwrap();
                added.load(team, &residual, conv.map_dtype()).unwrap();
                let fusion = Fusion { residual: with_residual.then_some(&added), relu, ahead: &[&conv] };
                conv.forward(team, &input, fusion, &mut out).unwrap();
            });
            let largest = largest_difference(&out.to_tensor().unwrap(), &want);
            // In bf16 inputs, weights and the result are each rounded to 8 bits of significand.
            let terms = (group_in * kernel * kernel) as f32;
            let tolerance = match dtype {
                DType::F32 => 2e-4,
                _ => 2f32.powi(-8) * (3.0 * terms.sqrt() + 4.0 + greatest),
            };
            prop_assert!(largest < tolerance, "{isa:?} {dtype:?}: {largest}");
        }
        let residual = with_residual.then_some(&residual);
        let error = quantized_error(&x, &in_127ths(&weight, groups), &bias, &config, residual, relu);
        prop_assert!(error < 0.501, "{error} steps");
    }
}
