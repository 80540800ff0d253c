//! Packing of training's operands into planes.

use resnext_kernels::internals::{LineCursor, PixelLines, PixelRun, Prefetch, pack, plane_len};
use resnext_kernels::{Isa, Operand, lanes};

#[test]
fn every_operand_arrives_in_every_instruction_set() {
    let x: Vec<f32> = (0..6 * 64).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
    let g: Vec<f32> = x.iter().rev().copied().collect();
    let c: Vec<f32> = (0..64).map(|i| i as f32 / 32.0 - 1.0).collect();
    type Value<'a> = &'a dyn Fn(usize) -> f32;
    let operands: [(_, Value); 3] = [
        (Operand::Plain(&x[..]), &|i| x[i]),
        (Operand::Normalised { x: &x, scale: &c, shift: &c }, &|i| (x[i] * c[i % 64] + c[i % 64]).max(0.0)),
        (Operand::Gradient { g: &g, x: &x, a: &c, b: &c, d: &c }, &|i| (g[i] + x[i] + 1.0) * c[i % 64]),
    ];
    for isa in Isa::available() {
        for (operand, want) in operands {
            let (lanes, plane) = (lanes::<f32>(isa), 5 * 16);
            let mut planes = vec![f32::NAN; plane * 32 / lanes];
            let runs = [
                PixelRun { to: 0, count: 1, to_step: 1, from: None },
                PixelRun { to: 1, count: 3, to_step: 1, from: Some((1, 2)) },
            ];
            pack(isa, operand, 64, 32..64, &runs, &mut planes, plane);
            for k in 0..32 {
                let at = |i: usize| planes[k / lanes * plane + i * lanes + k % lanes];
                assert_eq!(at(0), 0.0);
                for i in 0..3 {
                    let want = want((1 + 2 * i) * 64 + 32 + k);
                    assert!((at(1 + i) - want).abs() <= 1e-4 * want.abs().max(1.0), "{isa:?}");
                }
            }
        }
    }
}

/// Which lines are prefetched shows in the speed alone, so that a mistake would go unnoticed.
#[test]
fn a_cursor_passes_every_line_once_in_as_many_calls_as_asked() {
    let (x, g, c) = (vec![0f32; 9 * 64], vec![0f32; 9 * 40], vec![0f32; 40]);
    let read = Prefetch::of(Operand::Plain(&x), 64, 2).lines(16, 40);
    let gradient = Operand::Gradient { g: &g, x: &g[4..], a: &c, b: &c, d: &c };
    let given = Prefetch::of(gradient, 40, 2).lines(0, 16);
    let line = |map: &[f32], at: usize| map[at..].as_ptr().cast::<u8>();
    // 40 channels are three lines, 16 are one.
    let of_x = (2..7).flat_map(|p| [0, 16, 32].map(|c| line(&x, p * 64 + 16 + c)));
    let of_g = [0, 4].into_iter().flat_map(|first| (2..7).map(move |p| first + p * 40));
    let want: Vec<_> = of_x.chain(of_g.map(|at| line(&g, at))).collect();
    for calls in [1, 4, 100] {
        let mut cursor = LineCursor::new([read, given], 5, calls);
        assert!(cursor.pace * calls >= want.len() && (cursor.pace - 1) * calls < want.len());
        assert_eq!(std::iter::from_fn(|| cursor.next_line()).collect::<Vec<_>>(), want);
    }
    assert!(LineCursor::new([PixelLines::NONE; 2], 5, 1).next_line().is_none());
}

#[test]
fn vectors_of_a_pixel_lie_in_different_cache_sets() {
    for (places, lanes) in [(192, 8), (96, 8), (192, 16), (84, 16), (7, 4)] {
        let plane = plane_len::<f32>(places, lanes);
        assert!(plane >= places * lanes && plane < (places * lanes).next_multiple_of(16) + 32);
        let sets: std::collections::HashSet<_> = (0..64).map(|vector| vector * plane / 16 % 64).collect();
        assert_eq!(sets.len(), 64, "{places} places of {lanes}");
    }
}

#[test]
#[should_panic]
fn a_pixel_that_does_not_exist_is_refused() {
    let runs = [PixelRun { to: 0, count: 2, to_step: 1, from: Some((2, 1)) }];
    let mut planes = vec![0f32; 64];
    pack(Isa::Portable, Operand::Plain(&[0f32; 3 * 16]), 16, 0..16, &runs, &mut planes, 32);
}
