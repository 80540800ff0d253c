//! Every instruction set of this machine against plain Rust, and every training kernel against the direct one.

use super::batch_norm::{GradientSums, Moments, mean_and_variance};
use super::block_sink::{BlockSink, BlockSums, BlockTotals};
use super::conv::{
    conv_forward, conv_gradients, conv_input_gradient, conv_pixel_gradients, conv_weight_gradient,
};
use super::max_pool::{Window, max_pool, max_pool_gradient};
use super::operand::{Affine, Gate, Operand};
use super::residual::{Shortcut, residual_relu, residual_relu_gradient};
use super::strided_gradient::StridedGradient;
use super::{direct, direct_wgrad};
use crate::shape::{Conv2dConfig, ConvShape};
use crate::simd::dispatch::Isa;
use crate::simd::traits::{Element, Storage};
use half::bf16;

fn fill<T: Element>(len: usize, salt: u64) -> Vec<T> {
    (0..len as u64)
        .map(|i| T::of_f64((i * 2654435761 + salt * 40503) as u32 as f64 / 2147483648.0 - 1.0))
        .collect()
}

fn close<T: Element>(a: &[T], b: &[T], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a.as_f64() - b.as_f64()).abs() < tolerance, "element {i}: {a:?} {b:?}");
    }
}

fn compare<T: Element>(tolerance: f64) {
    // Input and output channels per group, and groups: spanning, dense, wide and awkward widths.
    for (group_in, group_out, groups) in [
        (4, 4, 32),
        (8, 8, 8),
        (1, 1, 16),
        (2, 2, 8),
        (4, 4, 3),
        (16, 16, 2),
        (3, 5, 2),
        (40, 70, 1),
        (14, 14, 8),
    ] {
        for (stride, dilation) in [(1, 1), (2, 1), (3, 2)] {
            let (kernel, side, padding) = (3, 9, 1);
            let out = (side + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
            let shape = ConvShape {
                batch: 2,
                in_channels: group_in * groups,
                in_h: side,
                in_w: side,
                out_channels: group_out * groups,
                out_h: out,
                out_w: out,
                kernel_h: kernel,
                kernel_w: kernel,
                config: Conv2dConfig { stride, padding, dilation, groups },
            };
            let (x, grad) = (fill::<T>(shape.input_len(), 1), fill::<T>(shape.output_len(), 2));
            let weight = fill::<T>(shape.weight_len(), 3);
            let all = |isa| {
                (
                    direct::forward(isa, &shape, &x, &weight),
                    direct::input_gradient(isa, &shape, &grad, &weight),
                    direct_wgrad::weight_gradient(isa, &shape, &x, &grad),
                )
            };
            let want = all(Isa::Portable);
            for isa in Isa::available() {
                let got = all(isa);
                close(&got.0, &want.0, tolerance);
                close(&got.1, &want.1, tolerance);
                close(&got.2, &want.2, tolerance);
            }
        }
    }
}

#[test]
fn every_instruction_set_computes_the_same() {
    eprintln!("instruction sets: {:?}", Isa::available());
    compare::<f32>(2e-4);
    compare::<f64>(1e-12);
}

#[test]
fn statistics_do_not_cancel() {
    // With a mean a thousand times the deviation, naive sums of squares in f32 lose the variance.
    let x: Vec<f32> = fill::<f32>(40_000, 1).iter().map(|v| 1000.0 + v).collect();
    for isa in Isa::available() {
        let (mean, var) = mean_and_variance(isa, &x, 4);
        for k in 0..4 {
            let own: Vec<f64> = x.iter().skip(k).step_by(4).map(|&v| v as f64).collect();
            let want = own.iter().sum::<f64>() / 1e4;
            let spread = own.iter().map(|v| (v - want).powi(2)).sum::<f64>() / 1e4;
            assert!((mean[k] - want).abs() < 1e-3 && (var[k] / spread - 1.0).abs() < 1e-3, "{isa:?}");
        }
    }
}

/// The three kinds of operand.
fn operands<'a, D: Storage>(x: &'a [D], c: &'a [D::Compute]) -> [Operand<'a, D>; 3] {
    [
        Operand::Plain(x),
        Operand::Normalised { x, scale: c, shift: c },
        Operand::Gradient { g: x, x, a: c, b: c, d: c },
    ]
}

/// Convolutions that reach every training kernel, tile size and edge case.
fn training_shapes() -> impl Iterator<Item = ConvShape> {
    // Input and output channels per group, groups, kernel, stride, padding, height, width.
    let sizes = [
        (64, 48, 1, 1, 1, 0, 9, 7),
        (16, 80, 1, 1, 2, 0, 7, 8),
        (640, 16, 1, 1, 1, 0, 3, 3),
        (32, 272, 1, 1, 1, 0, 5, 41),
        (3, 16, 1, 3, 1, 1, 9, 8),
        (3, 64, 1, 7, 2, 3, 17, 20),
        (4, 4, 8, 3, 1, 1, 7, 14),
        (4, 4, 16, 3, 2, 1, 9, 32),
        (8, 8, 4, 3, 1, 1, 5, 16),
        (8, 8, 4, 3, 2, 1, 8, 15),
        (16, 16, 2, 3, 1, 1, 3, 9),
        (32, 32, 2, 3, 1, 1, 7, 7),
        (32, 32, 2, 3, 2, 1, 14, 14),
        (16, 16, 2, 3, 2, 1, 5, 1),
        (4, 4, 64, 3, 1, 1, 40, 40),
        (1, 1, 16, 3, 1, 1, 6, 6),
        (16, 16, 2, 3, 1, 1, 1, 4),
        (16, 16, 16, 3, 1, 1, 8, 70),
        (64, 64, 1, 3, 1, 1, 19, 2),
        (128, 128, 1, 3, 1, 1, 4, 5),
    ];
    sizes.into_iter().map(|(group_in, group_out, groups, kernel, stride, padding, h, w)| {
        let size = |side: usize| (side + 2 * padding - kernel) / stride + 1;
        ConvShape {
            batch: 3,
            in_channels: group_in * groups,
            in_h: h,
            in_w: w,
            out_channels: group_out * groups,
            out_h: size(h),
            out_w: size(w),
            kernel_h: kernel,
            kernel_w: kernel,
            config: Conv2dConfig { stride, padding, dilation: 1, groups },
        }
    })
}

/// Asserts that the blocks are all of `map` in order: each block's mean is that of the pixels where it should be.
fn follow_each_other<T: Element>(isa: Isa, channels: usize, map: &[T], blocks: &[BlockSums<T>]) {
    let mut rest = map;
    for block in blocks {
        let BlockSums::Moments(moments) = block else { panic!("no moments") };
        let (mean, _) = Moments::merge(channels, std::slice::from_ref(moments));
        let (own, behind) = rest.split_at(moments.count() * channels);
        let (want, _) = mean_and_variance(isa, own, channels);
        assert!(mean.iter().zip(want).all(|(mean, want)| (mean - want).abs() < 1e-4), "{isa:?}");
        rest = behind;
    }
    assert!(rest.is_empty(), "blocks are all of the map");
}

/// The training kernels against the direct one.
fn training_kernels<T: Element>(tolerance: f64) {
    for shape in training_shapes() {
        let (x, grad) = (fill::<T>(shape.input_len(), 1), fill::<T>(shape.output_len(), 2));
        let weight = fill::<T>(shape.weight_len(), 3);
        let (c_in, c_out) = (fill::<T>(shape.in_channels, 4), fill::<T>(shape.out_channels, 5));
        for isa in Isa::available() {
            for (x, grad) in operands(&x, &c_in).into_iter().zip(operands(&grad, &c_out)) {
                let (values, gradient) = (x.values(isa), grad.values(isa));
                let (got, blocks) = conv_forward(isa, &shape, x, &weight, BlockSink::Statistics);
                close(&got, &direct::forward(isa, &shape, &values, &weight), tolerance);
                let (biased, _) = conv_forward(isa, &shape, x, &weight, BlockSink::Bias(&c_out));
                follow_each_other(isa, shape.out_channels, &got, &blocks);
                for (i, (biased, &y)) in biased.iter().zip(&got).enumerate() {
                    let want = y.as_f64() + c_out[i % shape.out_channels].as_f64();
                    assert!((biased.as_f64() - want).abs() < tolerance, "{isa:?}");
                }
                let want = direct_wgrad::weight_gradient(isa, &shape, &values, &gradient);
                close(&conv_weight_gradient(isa, &shape, x, grad), &want, tolerance * 10.0);
                let plain = direct::input_gradient(isa, &shape, &gradient, &weight);
                // The sink adds different values to each pixel, which shows that blocks are where they should be.
                let whole = ConvShape { config: Default::default(), ..shape };
                let other = fill::<T>(shape.input_len(), 6);
                let add = BlockSink::Add(StridedGradient { values: &other, shape: &whole });
                let mut sum = plain.clone();
                sum.iter_mut().zip(&other).for_each(|(sum, &other)| *sum += other);
                let (input, blocks) = conv_input_gradient(isa, &shape, grad, &weight, BlockSink::Statistics);
                close(&input, &plain, tolerance);
                follow_each_other(isa, shape.in_channels, &input, &blocks);
                close(&conv_input_gradient(isa, &shape, grad, &weight, add).0, &sum, tolerance);
                let (input, blocks, own) =
                    conv_gradients(isa, &shape, x, grad, &weight, BlockSink::Statistics);
                close(&own, &want, tolerance * 10.0);
                close(&input, &plain, tolerance);
                follow_each_other(isa, shape.in_channels, &input, &blocks);
                close(&conv_gradients(isa, &shape, x, grad, &weight, add).0, &sum, tolerance);
                if let Some((few, own)) = conv_pixel_gradients(isa, &shape, x, grad, &weight) {
                    close(&own, &want, tolerance * 10.0);
                    let mut all = vec![T::ZERO; shape.input_len()];
                    StridedGradient { values: &few, shape: &shape }.add(isa, 0, &mut all);
                    close(&all, &input, tolerance);
                }
            }
        }
    }
}

#[test]
fn training_kernels_compute_what_gathering_does() {
    training_kernels::<f32>(5e-4);
    training_kernels::<f64>(1e-11);
}

/// Maps in bf16 give the results of f32 maps with the same values, rounded once, and sums over the rounded values.
#[test]
fn bf16_in_memory_is_computed_in_f32() {
    let half = |len, salt| bf16::narrow_all(fill::<f32>(len, salt));
    for shape in training_shapes() {
        let (x, grad) = (half(shape.input_len(), 1), half(shape.output_len(), 2));
        let [wide_x, wide_grad] = [&x, &grad].map(|values| bf16::widen_all(values));
        let weight = fill::<f32>(shape.weight_len(), 3);
        let (c_in, c_out) = (fill(shape.in_channels, 4), fill(shape.out_channels, 5));
        let pairs = operands(&x, &c_in).into_iter().zip(operands(&grad, &c_out));
        let wide_pairs = operands(&wide_x, &c_in).into_iter().zip(operands(&wide_grad, &c_out));
        let all =
            pairs.zip(wide_pairs).flat_map(|all| Isa::available().into_iter().map(move |isa| (isa, all)));
        for (isa, ((x, grad), (wide_x, wide_grad))) in all {
            let channels = shape.out_channels;
            let (got, blocks) = conv_forward(isa, &shape, x, &weight, BlockSink::Statistics);
            let (want, _) = conv_forward(isa, &shape, wide_x, &weight, BlockSink::Output);
            assert_eq!(got, bf16::narrow_all(want));
            let BlockTotals { statistics: (mean, variance), .. } = BlockTotals::of(channels, blocks);
            let (want_mean, want_variance) = mean_and_variance(isa, &bf16::widen_all(&got), channels);
            for (got, want) in mean.iter().zip(want_mean).chain(variance.iter().zip(want_variance)) {
                assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{isa:?}: {got} {want}");
            }
            let (got, _) = conv_input_gradient(isa, &shape, grad, &weight, BlockSink::Output);
            let (want, _) = conv_input_gradient(isa, &shape, wide_grad, &weight, BlockSink::Output);
            assert_eq!(got, bf16::narrow_all(want));
            let want_own = conv_weight_gradient(isa, &shape, wide_x, wide_grad);
            assert_eq!(conv_weight_gradient(isa, &shape, x, grad), want_own);
            let (got, _, own) = conv_gradients(isa, &shape, x, grad, &weight, BlockSink::Output);
            let (want, _, want_own) =
                conv_gradients(isa, &shape, wide_x, wide_grad, &weight, BlockSink::Output);
            assert_eq!((got, own), (bf16::narrow_all(want), want_own));
            let got = conv_pixel_gradients(isa, &shape, x, grad, &weight);
            let want = conv_pixel_gradients(isa, &shape, wide_x, wide_grad, &weight);
            assert_eq!(got, want.map(|(pixels, own)| (bf16::narrow_all(pixels), own)));
        }
    }
}

#[test]
fn what_follows_a_convolution_is_computed_in_f32_from_bf16() {
    let (channels, pixels) = (32, 3 * 8 * 10);
    let half = |salt| bf16::narrow_all(fill::<f32>(channels * pixels, salt));
    let (x, other, y, g) = (half(1), half(2), half(3), half(4));
    let wide = |values: &[bf16]| bf16::widen_all(values).into_owned();
    let (scale, shift) = (fill::<f32>(channels, 5), fill::<f32>(channels, 6));
    let mean: Vec<f64> = fill::<f64>(channels, 7);
    let (wide_x, wide_other, wide_y, wide_g) = (wide(&x), wide(&other), wide(&y), wide(&g));
    let window = Window { batch: 3, src: (8, 10), dst: (4, 5), channels, kernel: 3, stride: 2, padding: 1 };
    let pooled = 3 * 4 * 5 * channels;
    for isa in Isa::available() {
        let affine = Affine { x: &x[..], scale: &scale, shift: &shift };
        let wide_affine = Affine { x: &wide_x[..], scale: &scale, shift: &shift };
        let shortcut = [Shortcut::None, Shortcut::Identity(&other[..]), Shortcut::Projection(affine)];
        let wide_shortcut =
            [Shortcut::None, Shortcut::Identity(&wide_other[..]), Shortcut::Projection(wide_affine)];
        for (shortcut, wide_shortcut) in shortcut.into_iter().zip(wide_shortcut) {
            let want = residual_relu(isa, channels, wide_affine, wide_shortcut);
            assert_eq!(residual_relu(isa, channels, affine, shortcut), bf16::narrow_all(want));
        }
        let got = residual_relu_gradient(isa, channels, (&y, &g), (&x, &mean), Some((&other, &mean)));
        let want = residual_relu_gradient(
            isa,
            channels,
            (&wide_y, &wide_g),
            (&wide_x, &mean),
            Some((&wide_other, &mean)),
        );
        assert_eq!(got, (bf16::narrow_all(want.0), want.1, want.2));

        let (mut gated, mut wide_gated) = (g.clone(), wide_g.clone());
        let sums = GradientSums::gate(
            isa,
            &Gate { x: &x, scale: &scale, shift: &shift, mean: &mean },
            0,
            &mut gated,
        );
        let wide_sums = GradientSums::gate(
            isa,
            &Gate { x: &wide_x, scale: &scale, shift: &shift, mean: &mean },
            0,
            &mut wide_gated,
        );
        assert_eq!(gated, bf16::narrow_all(wide_gated));
        assert_eq!(GradientSums::total(&[sums]), GradientSums::total(&[wide_sums]));

        let ((best, at), (wide_best, wide_at)) =
            (max_pool(isa, &window, affine), max_pool(isa, &window, wide_affine));
        assert_eq!((best, &at), (bf16::narrow_all(wide_best), &wide_at));
        let (got, _) = max_pool_gradient(isa, &window, &at, &g[..pooled], BlockSink::Output);
        let (want, _) = max_pool_gradient(isa, &window, &at, &wide_g[..pooled], BlockSink::Output);
        assert_eq!(got, bf16::narrow_all(want));
    }
}
