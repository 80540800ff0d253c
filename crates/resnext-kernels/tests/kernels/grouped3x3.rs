//! Grouped 3×3 convolutions in training: which kernel computes them, and that the batch does not change a bit.

use resnext_kernels::{
    BlockSink, BlockTotals, Conv2dConfig, ConvKernel, ConvShape, Isa, Operand, TrainKernels,
};

#[test]
fn wide_groups_are_computed_in_tiles() {
    for isa in Isa::available() {
        for (group, stride, want) in [
            (64, 1, ConvKernel::WinogradTiles),
            (128, 1, ConvKernel::WinogradTiles),
            (16, 2, ConvKernel::Grouped3x3),
            (144, 1, ConvKernel::Grouped3x3),
        ] {
            let config = Conv2dConfig { stride, padding: 1, dilation: 1, groups: 2 };
            let shape = ConvShape::new([1, 8, 8, 2 * group], 2 * group, [3, 3], config);
            let [forward, backward, _] = f32::conv_kernels(isa, &shape);
            assert_eq!([forward, backward], [want; 2], "{isa:?} {group} {stride}");
        }
        let config = Conv2dConfig { padding: 1, groups: 2, ..Default::default() };
        let [narrow, ..] = f32::conv_kernels(isa, &ConvShape::new([1, 8, 8, 32], 32, [3, 3], config));
        let pays = !matches!(isa, Isa::Avx512 | Isa::Amx) || isa.has_adders();
        assert_eq!(narrow == ConvKernel::WinogradTiles, pays, "{isa:?}");
    }
}

/// Work is divided by channels for few images, and by images for many.
#[test]
fn an_image_has_the_same_bits_among_few_and_many() {
    type Solve = fn(Isa, &ConvShape, Operand<f32>, &[f32], BlockSink<f32>) -> (Vec<f32>, BlockTotals);
    let config = Conv2dConfig { padding: 1, groups: 2, ..Default::default() };
    let shape = |batch: usize| ConvShape::new([batch, 7, 5, 128], 128, [3, 3], config);
    let wave = |len: usize| (0..len).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
    let (few, many) = (shape(3), shape(15));
    let (weight, x) = (wave(few.weight_len()), wave(few.input_len()));
    let repeated = x.repeat(5);
    for isa in Isa::available() {
        let kernels = f32::conv_kernels(isa, &few);
        assert_eq!(
            kernels[..2],
            [ConvKernel::WinogradTiles; 2],
            "{isa:?}: the kernel that divides work by channels"
        );
        for solve in [f32::conv_forward as Solve, f32::conv_input_gradient] {
            let (y, totals) = solve(isa, &few, Operand::Plain(&x), &weight, BlockSink::Statistics);
            let (all, all_totals) =
                solve(isa, &many, Operand::Plain(&repeated), &weight, BlockSink::Statistics);
            assert!(y.iter().any(|&y| y != 0.0) && all == y.repeat(5), "{isa:?}");
            // Blocks have their moments in f32, which are merged in f64: one bit of one block would show.
            let [own, of_all] = [totals, all_totals].map(|totals| {
                let (mean, variance) = totals.statistics;
                [mean, variance].concat()
            });
            assert_eq!((own.len(), of_all.len()), (2 * 128, 2 * 128));
            for (own, of_all) in own.iter().zip(&of_all) {
                assert!((own - of_all).abs() < 1e-12 * own.abs().max(1.0), "{isa:?}: {own} {of_all}");
            }
        }
    }
}
