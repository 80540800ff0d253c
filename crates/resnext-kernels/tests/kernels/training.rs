//! Training's kernels: f32 and f64 maps against the definition, bf16 maps against f32 maps of the same values.

use crate::definition::Convolution;
use half::bf16;
use resnext_kernels::{
    Affine, BatchNormKernels, BlockSink, BlockTotals, Conv2dConfig, ConvKernel, ConvShape, Element, Gate,
    Isa, Operand, Shortcut, Storage, StridedGradient, TrainKernels, Window, lanes,
};

fn fill<T: Element>(len: usize, salt: u64) -> Vec<T> {
    (0..len as u64)
        .map(|i| T::of_f64((i * 2654435761 + salt * 40503) as u32 as f64 / 2147483648.0 - 1.0))
        .collect()
}

fn wide<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.as_f64()).collect()
}

fn close<T: Element>(got: &[T], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got.as_f64() - want).abs() < tolerance, "element {i}: {got:?} {want:?}");
    }
}

/// The sum of each channel of a map (pixels, channels).
fn channel_sums(channels: usize, map: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; channels];
    for pixel in map.chunks_exact(channels) {
        sums.iter_mut().zip(pixel).for_each(|(sum, v)| *sum += v);
    }
    sums
}

/// Asserts that a map (pixels, channels) has the mean and variance that were computed with it.
fn are_statistics(totals: &BlockTotals, channels: usize, map: &[f64], tolerance: f64) {
    let (mean, variance) = &totals.statistics;
    assert_eq!([mean.len(), variance.len()], [channels; 2]);
    let count = (map.len() / channels) as f64;
    let of_all = |sums: Vec<f64>| sums.into_iter().map(move |sum| sum / count);
    let want_mean: Vec<f64> = of_all(channel_sums(channels, map)).collect();
    let squares: Vec<f64> =
        map.iter().zip(want_mean.iter().cycle()).map(|(v, mean)| (v - mean).powi(2)).collect();
    let want_variance = of_all(channel_sums(channels, &squares));
    for (got, want) in mean.iter().chain(variance).zip(want_mean.iter().copied().chain(want_variance)) {
        assert!((got - want).abs() < tolerance * want.abs().max(1.0), "{got} instead of {want}");
    }
}

/// Asserts that every instruction set computes what the definition says. With dilation, all widths of groups are left to the
/// direct kernels, which take any sizes.
fn compare<T: TrainKernels + Element>(tolerance: f64) {
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
        for (stride, dilation) in [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2)] {
            let config = Conv2dConfig { stride, padding: 1, dilation, groups };
            let shape = ConvShape::new([2, 9, 9, group_in * groups], group_out * groups, [3, 3], config);
            let (x, grad) = (fill::<T>(shape.input_len(), 1), fill::<T>(shape.output_len(), 2));
            let weight = fill::<T>(shape.weight_len(), 3);
            let want = Convolution::new(&shape, &wide(&x), &wide(&weight), &wide(&grad));
            let (x, grad) = (Operand::Plain(&x[..]), Operand::Plain(&grad[..]));
            for isa in Isa::available() {
                let direct = T::conv_kernels(isa, &shape) == [ConvKernel::Direct; 3];
                assert!(direct || dilation == 1, "{isa:?}: the direct kernel is among those compared");
                let (output, _) = T::conv_forward(isa, &shape, x, &weight, BlockSink::Output);
                close(&output, &want.output, tolerance);
                let (input, _) = T::conv_input_gradient(isa, &shape, grad, &weight, BlockSink::Output);
                close(&input, &want.input_gradient, tolerance);
                close(&T::conv_weight_gradient(isa, &shape, x, grad), &want.weight_gradient, tolerance);
            }
        }
    }
}

#[test]
fn every_instruction_set_computes_the_definition() {
    eprintln!("instruction sets: {:?}", Isa::available());
    compare::<f32>(2e-4);
    compare::<f64>(1e-12);
}

#[test]
fn statistics_do_not_cancel() {
    // With a mean a thousand times the deviation, naive sums of squares in f32 lose the variance.
    let x: Vec<f32> = fill::<f32>(40_000, 1).iter().map(|v| 1000.0 + v).collect();
    for isa in Isa::available() {
        let (mean, var) = f32::mean_and_variance(isa, &x, 4);
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

/// The values that these operands stand for.
fn operand_values<T: Element>(x: &[T], c: &[T]) -> [Vec<f64>; 3] {
    let pairs = || x.iter().enumerate().map(|(i, x)| (x.as_f64(), c[i % c.len()].as_f64()));
    [
        wide(x),
        pairs().map(|(x, c)| (x * c + c).max(0.0)).collect(),
        pairs().map(|(x, c)| c * x + c * x + c).collect(),
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
        let config = Conv2dConfig { stride, padding, dilation: 1, groups };
        ConvShape::new([3, h, w, group_in * groups], group_out * groups, [kernel; 2], config)
    })
}

/// Asserts that `compute` returns the map `want` (pixels, channels), and what each sink makes of it. Adding and gating do
/// something else at every pixel, which shows that each block of the map is passed on as the pixels that it has.
fn sinks<T: Element>(
    isa: Isa,
    [pixels, channels]: [usize; 2],
    want: &[f64],
    tolerance: f64,
    compute: impl Fn(BlockSink<T>) -> (Vec<T>, BlockTotals),
) {
    let (map, totals) = compute(BlockSink::Statistics);
    close(&map, want, tolerance);
    are_statistics(&totals, channels, &wide(&map), tolerance / 5.0);

    let bias = fill::<T>(channels, 5);
    let (biased, _) = compute(BlockSink::Bias(&bias));
    let sums = map.iter().zip(bias.iter().cycle()).map(|(y, bias)| y.as_f64() + bias.as_f64());
    close(&biased, &sums.collect::<Vec<_>>(), tolerance);

    let other = fill::<T>(want.len(), 6);
    let shape = ConvShape::new([1, pixels, 1, channels], channels, [1, 1], Default::default());
    let (sum, _) = compute(BlockSink::Add(StridedGradient { values: &other, shape: &shape }));
    let sums = want.iter().zip(&other).map(|(want, other)| want + other.as_f64());
    close(&sum, &sums.collect::<Vec<_>>(), tolerance);

    if !channels.is_multiple_of(lanes::<T>(isa)) {
        return;
    }
    // With powers of two as the scale, rounding cannot change a sign.
    let scale: Vec<T> = [0.5, -2.0, 1.0].into_iter().cycle().take(channels).map(T::of_f64).collect();
    let (x, shift, mean) = (fill::<T>(want.len(), 7), fill::<T>(channels, 8), fill::<f64>(channels, 9));
    let gate = Gate { x: &x, scale: &scale, shift: &shift, mean: &mean };
    let (gated, BlockTotals { gradient_sums, .. }) = compute(BlockSink::Gate(gate));
    let open = x
        .iter()
        .zip(scale.iter().zip(&shift).cycle())
        .map(|(x, (scale, shift))| x.as_f64() * scale.as_f64() + shift.as_f64() > 0.0);
    let want_gated: Vec<f64> =
        want.iter().zip(open).map(|(&want, open)| if open { want } else { 0.0 }).collect();
    close(&gated, &want_gated, tolerance);
    let gated = wide(&gated);
    let centred = gated.iter().zip(&x).zip(mean.iter().cycle()).map(|((g, x), mean)| g * (x.as_f64() - mean));
    let centred: Vec<f64> = centred.collect();
    for (got, terms) in gradient_sums.into_iter().zip([gated, centred]) {
        assert_eq!(got.len(), channels);
        let sizes = channel_sums(channels, &terms.iter().map(|term| term.abs()).collect::<Vec<_>>());
        for ((got, want), size) in got.iter().zip(channel_sums(channels, &terms)).zip(sizes) {
            assert!((got - want).abs() < tolerance / 50.0 * size.max(1.0), "{isa:?}: {got} {want}");
        }
    }
}

/// The training kernels against the definition.
fn training_kernels<T: TrainKernels + Element>(tolerance: f64) {
    for shape in training_shapes() {
        let (x, grad) = (fill::<T>(shape.input_len(), 1), fill::<T>(shape.output_len(), 2));
        let weight = fill::<T>(shape.weight_len(), 3);
        let (c_in, c_out) = (fill::<T>(shape.in_channels, 4), fill::<T>(shape.out_channels, 5));
        let values = operand_values(&x, &c_in).into_iter().zip(operand_values(&grad, &c_out));
        let operands = operands(&x, &c_in).into_iter().zip(operands(&grad, &c_out));
        let input = [shape.batch * shape.in_h * shape.in_w, shape.in_channels];
        let output = [shape.batch * shape.out_h * shape.out_w, shape.out_channels];
        for ((x, grad), (values, gradient)) in operands.zip(values) {
            let want = Convolution::new(&shape, &values, &wide(&weight), &gradient);
            for isa in Isa::available() {
                sinks(isa, output, &want.output, tolerance, |sink| {
                    T::conv_forward(isa, &shape, x, &weight, sink)
                });
                let own = T::conv_weight_gradient(isa, &shape, x, grad);
                close(&own, &want.weight_gradient, tolerance * 10.0);
                sinks(isa, input, &want.input_gradient, tolerance, |sink| {
                    T::conv_input_gradient(isa, &shape, grad, &weight, sink)
                });
                sinks(isa, input, &want.input_gradient, tolerance, |sink| {
                    let (map, totals, own) = T::conv_gradients(isa, &shape, x, grad, &weight, sink);
                    close(&own, &want.weight_gradient, tolerance * 10.0);
                    (map, totals)
                });
                if let Some((few, own)) = T::conv_pixel_gradients(isa, &shape, x, grad, &weight) {
                    close(&own, &want.weight_gradient, tolerance * 10.0);
                    let mut all = vec![T::ZERO; shape.input_len()];
                    StridedGradient { values: &few, shape: &shape }.add(isa, 0, &mut all);
                    close(&all, &want.input_gradient, tolerance);
                }
            }
        }
    }
}

#[test]
fn training_kernels_compute_the_definition_in_f32() {
    training_kernels::<f32>(5e-4);
}

#[test]
fn training_kernels_compute_the_definition_in_f64() {
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
            let (got, totals) = bf16::conv_forward(isa, &shape, x, &weight, BlockSink::Statistics);
            let (want, _) = f32::conv_forward(isa, &shape, wide_x, &weight, BlockSink::Output);
            assert_eq!(got, bf16::narrow_all(want));
            let (mean, variance) = totals.statistics;
            let (want_mean, want_variance) = f32::mean_and_variance(isa, &bf16::widen_all(&got), channels);
            assert_eq!([mean.len(), variance.len()], [channels; 2]);
            for (got, want) in mean.iter().zip(want_mean).chain(variance.iter().zip(want_variance)) {
                assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{isa:?}: {got} {want}");
            }
            let (got, _) = bf16::conv_input_gradient(isa, &shape, grad, &weight, BlockSink::Output);
            let (want, _) = f32::conv_input_gradient(isa, &shape, wide_grad, &weight, BlockSink::Output);
            assert_eq!(got, bf16::narrow_all(want));
            let want_own = f32::conv_weight_gradient(isa, &shape, wide_x, wide_grad);
            assert_eq!(bf16::conv_weight_gradient(isa, &shape, x, grad), want_own);
            let (got, _, own) = bf16::conv_gradients(isa, &shape, x, grad, &weight, BlockSink::Output);
            let (want, _, want_own) =
                f32::conv_gradients(isa, &shape, wide_x, wide_grad, &weight, BlockSink::Output);
            assert_eq!((got, own), (bf16::narrow_all(want), want_own));
            let got = bf16::conv_pixel_gradients(isa, &shape, x, grad, &weight);
            let want = f32::conv_pixel_gradients(isa, &shape, wide_x, wide_grad, &weight);
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
    // Windows of one pixel, whose gradient is that of the output, so that a sink receives values that bf16 has.
    let single = Window { dst: (8, 10), kernel: 1, stride: 1, padding: 0, ..window };
    let first = vec![0; channels * pixels];
    for isa in Isa::available() {
        let affine = Affine { x: &x[..], scale: &scale, shift: &shift };
        let wide_affine = Affine { x: &wide_x[..], scale: &scale, shift: &shift };
        let shortcut = [Shortcut::None, Shortcut::Identity(&other[..]), Shortcut::Projection(affine)];
        let wide_shortcut =
            [Shortcut::None, Shortcut::Identity(&wide_other[..]), Shortcut::Projection(wide_affine)];
        for (shortcut, wide_shortcut) in shortcut.into_iter().zip(wide_shortcut) {
            let want = f32::residual_relu(isa, channels, wide_affine, wide_shortcut);
            assert_eq!(bf16::residual_relu(isa, channels, affine, shortcut), bf16::narrow_all(want));
        }
        let got = bf16::residual_relu_gradient(isa, channels, (&y, &g), (&x, &mean), Some((&other, &mean)));
        let want = f32::residual_relu_gradient(
            isa,
            channels,
            (&wide_y, &wide_g),
            (&wide_x, &mean),
            Some((&wide_other, &mean)),
        );
        assert_eq!(got, (bf16::narrow_all(want.0), want.1, want.2));

        let gate = BlockSink::Gate(Gate { x: &x, scale: &scale, shift: &shift, mean: &mean });
        let wide_gate = BlockSink::Gate(Gate { x: &wide_x, scale: &scale, shift: &shift, mean: &mean });
        let (gated, totals) = bf16::max_pool_gradient(isa, &single, &first, &g, gate);
        let (wide_gated, wide_totals) = f32::max_pool_gradient(isa, &single, &first, &wide_g, wide_gate);
        assert!(gated.iter().zip(&g).all(|(gated, g)| gated == g || *gated == bf16::ZERO) && gated != g);
        assert_eq!(gated, bf16::narrow_all(wide_gated));
        assert!(totals.gradient_sums.iter().all(|sums| sums.len() == channels));
        assert_eq!(totals.gradient_sums, wide_totals.gradient_sums);

        let ((best, at), (wide_best, wide_at)) =
            (bf16::max_pool(isa, &window, affine), f32::max_pool(isa, &window, wide_affine));
        assert_eq!((best, &at), (bf16::narrow_all(wide_best), &wide_at));
        let (got, _) = bf16::max_pool_gradient(isa, &window, &at, &g[..pooled], BlockSink::Output);
        let (want, _) = f32::max_pool_gradient(isa, &window, &at, &wide_g[..pooled], BlockSink::Output);
        assert_eq!(got, bf16::narrow_all(want));
    }
}
