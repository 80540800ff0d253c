//! The direct kernel for the weight's gradient: for every kernel position, products of the input with the output's
//! gradient, summed over all pixels.
//!
//! Tasks own tiles of the result and visit the pixels in one fixed order, so the sums have the same bits for any number of
//! threads. Partial sums per block of pixels also bound the rounding error.

use super::gather::{Gather, OUTSIDE};
use crate::group_lanes::spans_groups;
use crate::shape::ConvShape;
use crate::simd::dispatch::{Isa, dispatch};
use crate::simd::traits::{Element, Kernel, MAX_PIXELS, Simd};
use rayon::prelude::*;

/// Pixels per block: both operands' channels of a block fit a second-level cache.
const BLOCK_PIXELS: usize = 192;

/// The gradient of the weight (Cout, Cin/groups, kh, kw) from `x` (N, H, W, Cin) and `grad` (N, H', W', Cout).
pub fn weight_gradient<T: Element>(isa: Isa, shape: &ConvShape, x: &[T], grad: &[T]) -> Vec<T> {
    assert_eq!(x.len(), shape.input_len());
    assert_eq!(grad.len(), shape.output_len());
    let mut out = vec![T::ZERO; shape.weight_len()];
    dispatch(isa, DirectWgrad { isa, shape, gather: &Gather::forward(shape), x, grad, out: &mut out });
    out
}

struct DirectWgrad<'a, T> {
    isa: Isa,
    shape: &'a ConvShape,
    gather: &'a Gather,
    x: &'a [T],
    grad: &'a [T],
    out: &'a mut [T],
}

/// A tile of the result: rows are pairs of kernel position and input channel, columns output channels.
#[derive(Clone, Copy)]
struct Tile {
    group: usize,
    tap: usize,
    /// Kernel positions covered, more than one only where vectors span groups.
    taps: usize,
    /// The first input channel in the group; in a spanning tile, the vector's first channel.
    input: usize,
    rows: usize,
    output: usize,
    width: usize,
    spanning: bool,
}

impl<T: Element> Kernel<T> for DirectWgrad<'_, T> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = T>>(self) {
        let (group_in, group_out) = (self.shape.group_in(), self.shape.group_out());
        let (groups, taps) = (self.shape.config.groups, self.shape.kernel_positions());
        let spanning = spans_groups(S::LANES, groups, group_in, group_out);
        let mut tiles = Vec::new();
        if spanning {
            let taps_at_once = (2 * S::PIXELS / group_in).max(1);
            for first in (0..groups * group_in).step_by(S::LANES) {
                for tap in (0..taps).step_by(taps_at_once) {
                    tiles.push(Tile {
                        group: 0,
                        tap,
                        taps: taps_at_once.min(taps - tap),
                        input: first,
                        rows: group_in,
                        output: first,
                        width: S::LANES,
                        spanning,
                    });
                }
            }
        } else {
            for group in 0..groups {
                for tap in 0..taps {
                    for input in (0..group_in).step_by(S::PIXELS) {
                        for output in (0..group_out).step_by(2 * S::LANES) {
                            tiles.push(Tile {
                                group,
                                tap,
                                taps: 1,
                                input,
                                rows: S::PIXELS.min(group_in - input),
                                output,
                                width: (2 * S::LANES).min(group_out - output),
                                spanning,
                            });
                        }
                    }
                }
            }
        }
        // Enough tasks to balance, each of neighbouring tiles, which read the same pixels.
        let tiles_per_task = tiles.len().div_ceil(16);
        let sums: Vec<Vec<T>> = tiles
            .par_chunks(tiles_per_task.max(1))
            .map(|tiles| {
                let mut sums = vec![T::ZERO; tiles.len() * TILE_LEN];
                dispatch(self.isa, DirectWgradTask { solve: &self, tiles, sums: &mut sums });
                sums
            })
            .collect();
        let sums = sums.iter().flat_map(|task| task.chunks_exact(TILE_LEN));
        for (tile, sums) in tiles.iter().zip(sums) {
            for t in 0..tile.taps {
                for row in 0..tile.rows {
                    for column in 0..tile.width {
                        let (output, input) = if tile.spanning {
                            (tile.output + column, row)
                        } else {
                            (tile.group * group_out + tile.output + column, tile.input + row)
                        };
                        self.out[(output * group_in + input) * taps + tile.tap + t] =
                            sums[(t * tile.rows + row) * ROW_LEN + column];
                    }
                }
            }
        }
    }
}

/// Elements of a row of a tile, and of a tile, for the widest instruction set.
const ROW_LEN: usize = 2 * 16;
const TILE_LEN: usize = 2 * MAX_PIXELS * ROW_LEN;

struct DirectWgradTask<'a, T> {
    solve: &'a DirectWgrad<'a, T>,
    tiles: &'a [Tile],
    sums: &'a mut [T],
}

impl<T: Element> Kernel<T> for DirectWgradTask<'_, T> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = T>>(self) {
        let gather = self.solve.gather;
        let phase = &gather.phases[0];
        let pixels = gather.pixels(phase);
        let longest = self.solve.shape.group_in() + S::LANES + MAX_PIXELS;
        let zeros = vec![T::ZERO; longest];
        let (mut dst, mut src) = (Vec::new(), Vec::new());
        for first in (0..pixels).step_by(BLOCK_PIXELS) {
            let count = BLOCK_PIXELS.min(pixels - first);
            gather.block(phase, first, count, &mut dst, &mut src);
            for (tile, sums) in self.tiles.iter().zip(self.sums.chunks_exact_mut(TILE_LEN)) {
                let block = DirectWgradBlock { solve: self.solve, tile, dst: &dst, src: &src, zeros: &zeros };
                // SAFETY: the CPU has S's instructions.
                unsafe {
                    match (tile.spanning, tile.taps, tile.rows) {
                        (true, taps, 4) => match taps {
                            1 => block.spanning::<S, 1, 4>(sums),
                            2 => block.spanning::<S, 2, 4>(sums),
                            3 => block.spanning::<S, 3, 4>(sums),
                            _ => block.spanning_in_turn::<S, 4>(sums),
                        },
                        (true, taps, 8) => match taps {
                            1 => block.spanning::<S, 1, 8>(sums),
                            3 => block.spanning::<S, 3, 8>(sums),
                            _ => block.spanning_in_turn::<S, 8>(sums),
                        },
                        (true, _, 1) => block.spanning_in_turn::<S, 1>(sums),
                        (true, _, 2) => block.spanning_in_turn::<S, 2>(sums),
                        (true, _, _) => {
                            unreachable!("a spanned width is 1, 2, 4 or 8: below 16 and a divisor of it")
                        }
                        (false, _, _) if tile.width <= S::LANES => block.dense::<S, 1>(sums),
                        (false, _, _) => block.dense::<S, 2>(sums),
                    }
                }
            }
        }
    }
}

struct DirectWgradBlock<'a, T> {
    solve: &'a DirectWgrad<'a, T>,
    tile: &'a Tile,
    dst: &'a [usize],
    src: &'a [usize],
    zeros: &'a [T],
}

impl<T: Element> DirectWgradBlock<'_, T> {
    /// The input channels from `channel` on that kernel position `tap` of pixel `p` reads.
    #[inline(always)]
    fn input(&self, p: usize, tap: usize, channel: usize) -> *const T {
        let shape = self.solve.shape;
        match self.src[p * shape.kernel_positions() + tap] {
            OUTSIDE => self.zeros.as_ptr(),
            pixel => self.solve.x[pixel * shape.in_channels + channel..].as_ptr(),
        }
    }

    /// # Safety
    /// The CPU has `S`'s instructions.
    #[inline(always)]
    unsafe fn dense<S: Simd<T = T>, const VECTORS: usize>(&self, sums: &mut [T]) {
        let (tile, shape) = (self.tile, self.solve.shape);
        let channel = tile.group * shape.group_in() + tile.input;
        let output = tile.group * shape.group_out() + tile.output;
        let full = tile.width == VECTORS * S::LANES && tile.rows == S::PIXELS;
        // SAFETY: a full tile reads PIXELS input channels and VECTORS vectors of output channels that
        // exist; any other tile reads copies in buffers of the full size.
        unsafe {
            let mut acc = [[S::zero(); VECTORS]; MAX_PIXELS];
            let mut row = [T::ZERO; ROW_LEN];
            let mut column = [T::ZERO; MAX_PIXELS];
            for (p, &pixel) in self.dst.iter().enumerate() {
                let mut x = self.input(p, tile.tap, channel);
                let grad = &self.solve.grad[pixel * shape.out_channels + output..][..tile.width];
                let mut g = grad.as_ptr();
                if !full {
                    row[..tile.width].copy_from_slice(grad);
                    column[..tile.rows].copy_from_slice(std::slice::from_raw_parts(x, tile.rows));
                    (x, g) = (column.as_ptr(), row.as_ptr());
                }
                let mut gv = [S::zero(); VECTORS];
                for v in 0..VECTORS {
                    gv[v] = S::load(g.add(v * S::LANES));
                }
                for m in 0..S::PIXELS {
                    let xm = S::splat(x.add(m));
                    for v in 0..VECTORS {
                        acc[m][v] = S::fma(xm, gv[v], acc[m][v]);
                    }
                }
            }
            for m in 0..S::PIXELS {
                for v in 0..VECTORS {
                    Self::accumulate::<S>(&mut sums[m * ROW_LEN + v * S::LANES..], acc[m][v]);
                }
            }
        }
    }

    /// # Safety
    /// The CPU has `S`'s instructions.
    #[inline(always)]
    unsafe fn spanning_in_turn<S: Simd<T = T>, const DEPTH: usize>(&self, sums: &mut [T]) {
        for t in 0..self.tile.taps {
            let tile = Tile { tap: self.tile.tap + t, taps: 1, ..*self.tile };
            let block = DirectWgradBlock { tile: &tile, ..*self };
            // SAFETY: passed on.
            unsafe { block.spanning::<S, 1, DEPTH>(&mut sums[t * DEPTH * ROW_LEN..]) };
        }
    }

    /// # Safety
    /// The CPU has `S`'s instructions.
    #[inline(always)]
    unsafe fn spanning<S: Simd<T = T>, const TAPS: usize, const DEPTH: usize>(&self, sums: &mut [T]) {
        let (tile, shape) = (self.tile, self.solve.shape);
        // SAFETY: LANES divides the channels, so a whole vector from `input` on exists in every pixel;
        // the zeros are longer than a vector.
        unsafe {
            let mut acc = [[S::zero(); DEPTH]; TAPS];
            for (p, &pixel) in self.dst.iter().enumerate() {
                let grad = &self.solve.grad[pixel * shape.out_channels + tile.output..][..S::LANES];
                let g = S::load(grad.as_ptr());
                for t in 0..TAPS {
                    let x = S::load(self.input(p, tile.tap + t, tile.input));
                    for c in 0..DEPTH {
                        let index = S::index(|lane| lane / DEPTH * DEPTH + c);
                        acc[t][c] = S::fma(S::permute(x, index), g, acc[t][c]);
                    }
                }
            }
            for t in 0..TAPS {
                for c in 0..DEPTH {
                    Self::accumulate::<S>(&mut sums[(t * DEPTH + c) * ROW_LEN..], acc[t][c]);
                }
            }
        }
    }

    /// # Safety
    /// The CPU has `S`'s instructions.
    #[inline(always)]
    unsafe fn accumulate<S: Simd<T = T>>(sums: &mut [T], value: S::V) {
        let sums = &mut sums[..S::LANES];
        // SAFETY: `sums` is one vector long.
        unsafe { S::store(sums.as_mut_ptr(), S::add(S::load(sums.as_ptr()), value)) }
    }
}
