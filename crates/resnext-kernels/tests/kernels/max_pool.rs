//! Max-pooling of inference.

use half::bf16;
use resnext_kernels::{MapType, PixelView, ThreadTeam, halves_mut, max_pool_rows};

/// The maxima of windows of 2×2 pixels, one per channel: the second pixel is `second`, all others are `first`.
fn maxima(first: &[u16], second: &[u16]) -> Vec<u16> {
    let words = first.len().div_ceil(2);
    let (mut map, mut out) = (vec![0f32; 4 * words], vec![0f32; words]);
    for (pixel, values) in halves_mut(&mut map).chunks_exact_mut(2 * words).zip([first, second, first, first])
    {
        pixel[..values.len()].copy_from_slice(values);
    }
    let view = PixelView { data: &map, stride: words };
    ThreadTeam::scope(|team| {
        let (source, window) = ((view, 2, 2, first.len()), (2, 1, 0));
        max_pool_rows(team, MapType::Bf16, source, window, (&mut out, words, 1, 1));
    });
    halves_mut(&mut out)[..first.len()].to_vec()
}

#[test]
fn bf16_are_ordered_as_numbers_and_nan_wins() {
    let all = || (0..=u16::MAX).map(bf16::from_bits);
    let mut numbers: Vec<bf16> = all().filter(|x| !x.is_nan()).collect();
    numbers.sort_by(bf16::total_cmp);
    // Each number and the next larger one, and infinity and each NaN.
    let neighbours = numbers.windows(2).map(|pair| (pair[0], pair[1]));
    let nan = all().filter(|x| x.is_nan()).map(|nan| (bf16::INFINITY, nan));
    let (smaller, larger): (Vec<u16>, Vec<u16>) =
        neighbours.chain(nan).map(|(smaller, larger)| (smaller.to_bits(), larger.to_bits())).unzip();
    assert_eq!(smaller.len(), (1 << 16) - 1);
    assert_eq!(maxima(&smaller, &larger), larger);
    assert_eq!(maxima(&larger, &smaller), larger);
}
