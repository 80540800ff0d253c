//! The gradient of a dense convolution's weight: the outer products of what the convolution read at each pixel with the
//! output's gradient there, summed over all pixels.
//!
//! A task owns a part of the pixels and a tile of the result. The division depends on the sizes alone, and parts are added
//! in order, so the result has the same bits for any number of threads.

use super::im2col::{Patches, pixel_runs};
use super::operand::Operand;
use super::packing::{LineCursor, Pack, PixelRun, Prefetch, plane_len};
use crate::memory::scratch::Scratch;
use crate::shape::ConvShape;
use crate::simd::dispatch::{Isa, dispatch, lanes};
use crate::simd::traits::{Element, Kernel, Simd, Storage};
use rayon::prelude::*;
use std::ops::Range;

/// Pixels per block: three vectors of each fit the first-level cache.
pub const BLOCK: usize = 192;
/// The most channels per task on the side of the input.
pub const MAX_READ: usize = 512;
/// The most channels per task on the side of the output's gradient.
const MAX_WRITTEN: usize = 256;
/// The least number of tasks that threads share.
const TASKS: usize = 16;
/// Rows of the result that are merged at a time.
const ROWS_MERGED: usize = 16;

/// The input of a convolution, as rows (output pixels, inputs of one output).
#[derive(Clone, Copy)]
pub enum WgradInput<'a, D: Storage> {
    /// Pixels of an operand, `stride` apart in maps of `size`, height and width.
    Pixels { operand: Operand<'a, D>, channels: usize, size: (usize, usize), stride: usize },
    /// Patches, `[kernel position][channel]`.
    Patches { x: &'a [D], shape: &'a ConvShape },
}

impl<D: Storage> WgradInput<'_, D> {
    fn channels(&self) -> usize {
        match self {
            WgradInput::Pixels { channels, .. } => *channels,
            WgradInput::Patches { shape, .. } => shape.kernel_positions() * shape.in_channels,
        }
    }
}

/// A task: its pixels, its channels of the input and its channels of the output's gradient.
struct WgradTask {
    pixels: Range<usize>,
    read: Range<usize>,
    written: Range<usize>,
}

/// `Σ gradient ⊗ read` over all pixels: (outputs, channels read).
pub fn gemm_wgrad<D: Storage>(
    isa: Isa,
    read: WgradInput<D>,
    gradient: Operand<D>,
    outputs: usize,
    pixels: usize,
) -> Vec<D::Compute> {
    let lanes = lanes::<D::Compute>(isa);
    let channels = read.channels();
    let padded = channels.next_multiple_of(lanes);
    assert!(outputs.is_multiple_of(lanes));
    // Patches are packed as a whole.
    assert!(matches!(read, WgradInput::Pixels { .. }) || padded <= MAX_READ);
    let ranges = |len: usize, most: usize| -> Vec<Range<usize>> {
        let parts = len.div_ceil(most).max(1);
        let at = |i: usize| (len / lanes * i / parts) * lanes;
        (0..parts).map(|i| at(i)..at(i + 1)).collect()
    };
    let (reads, writes) = (ranges(padded, MAX_READ), ranges(outputs, MAX_WRITTEN));
    let blocks = pixels.div_ceil(BLOCK).max(1);
    let parts = TASKS.div_ceil(reads.len() * writes.len()).min(blocks);
    let mut tasks = Vec::new();
    for part in 0..parts {
        let at = |part: usize| (blocks * part / parts * BLOCK).min(pixels);
        for read in &reads {
            for written in &writes {
                let pixels = at(part)..at(part + 1);
                tasks.push(WgradTask { pixels, read: read.clone(), written: written.clone() });
            }
        }
    }
    let sums: Vec<Vec<D::Compute>> = tasks
        .par_iter()
        .map_init(Scratch::default, |scratch, task| task.sums(isa, read, (gradient, outputs), scratch))
        .collect();
    let tiles = reads.len() * writes.len();
    let own = |tile: usize| (0..parts).map(|part| &sums[part * tiles + tile][..]).collect();
    let all: Vec<Tile<D::Compute>> = tasks[..tiles]
        .iter()
        .enumerate()
        .map(|(i, WgradTask { read, written, .. })| Tile {
            read: read.clone(),
            written: written.clone(),
            parts: own(i),
        })
        .collect();
    merged(lanes, outputs, channels, &all)
}

/// A part of the result, and its sums in the order that [`add`] writes them, one slice for each part of the pixels.
pub struct Tile<'a, T> {
    pub read: Range<usize>,
    pub written: Range<usize>,
    pub parts: Vec<&'a [T]>,
}

/// The whole result (outputs, channels) of all tiles, the parts of each added in order. Channels that a tile has beyond the
/// result are left out.
pub fn merged<T: Element>(lanes: usize, outputs: usize, channels: usize, tiles: &[Tile<T>]) -> Vec<T> {
    let mut out = vec![T::ZERO; outputs * channels];
    // Several rows at a time, as those of a strip are neighbours.
    out.par_chunks_mut((ROWS_MERGED * channels).max(1)).enumerate().for_each(|(i, rows)| {
        let first = i * ROWS_MERGED;
        let end = first + rows.len() / channels;
        for Tile { read, written, parts } in tiles {
            for from in read.clone().step_by(2 * lanes) {
                let strip = (2 * lanes).min(read.end - from);
                for part in parts {
                    for output in first.max(written.start)..end.min(written.end) {
                        let at = (from - read.start) * written.len() + (output - written.start) * strip;
                        let row = &mut rows[(output - first) * channels..][from..channels.min(from + strip)];
                        row.iter_mut().zip(&part[at..]).for_each(|(sum, &value)| *sum += value);
                    }
                }
            }
        }
    });
    out
}

impl WgradTask {
    fn sums<D: Storage>(
        &self,
        isa: Isa,
        read: WgradInput<D>,
        (gradient, outputs): (Operand<D>, usize),
        scratch: &mut Scratch<D::Compute>,
    ) -> Vec<D::Compute> {
        let lanes = lanes::<D::Compute>(isa);
        let (width, height) = (self.read.len(), self.written.len());
        let plane = plane_len::<D::Compute>(BLOCK, lanes);
        let mut sums = vec![D::Compute::ZERO; width * height];
        let (x, g) = scratch.get(plane * (width + height) / lanes).split_at_mut(plane * width / lanes);
        for first in self.pixels.clone().step_by(BLOCK) {
            let count = BLOCK.min(self.pixels.end - first);
            match read {
                WgradInput::Pixels { operand, channels, size, stride } => {
                    let runs = pixel_runs(size, stride, first, count);
                    let first = self.read.start;
                    Pack { operand, channels, first, width, runs: &runs, planes: x, plane }.pack(isa);
                }
                WgradInput::Patches { x: values, shape } => {
                    dispatch(isa, Patches { x: values, shape, first, count, planes: x, plane });
                }
            }
            let runs = [PixelRun { to: 0, count, to_step: 1, from: Some((first, 1)) }];
            let operand = gradient;
            let first = self.written.start;
            Pack { operand, channels: outputs, first, width: height, runs: &runs, planes: g, plane }
                .pack(isa);
            let next = first + BLOCK;
            let ahead = match read {
                _ if next >= self.pixels.end => [Prefetch::NONE; 2],
                WgradInput::Pixels { operand, channels, stride: 1, .. } => {
                    [Prefetch::of(operand, channels, next), Prefetch::of(gradient, outputs, next)]
                }
                _ => [Prefetch::NONE, Prefetch::of(gradient, outputs, next)],
            };
            let firsts = (self.read.start, self.written.start);
            add(isa, (x, width), (g, height), plane, count, (ahead, firsts), &mut sums);
        }
        sums
    }
}

/// Adds `Σ g ⊗ x` over `count` pixels in planes to sums. Meanwhile prefetches as many pixels of x and g `ahead`, in the same
/// channels: those from `firsts` on.
///
/// Sums are `[strip of two vectors of x][channel of g][vectors · LANES]`, so that tiles pass through them in memory order:
/// they may be larger than the cache.
pub fn add<D: Storage>(
    isa: Isa,
    (x, width): (&[D::Compute], usize),
    (g, height): (&[D::Compute], usize),
    plane: usize,
    count: usize,
    (ahead, firsts): ([Prefetch<D>; 2], (usize, usize)),
    sums: &mut [D::Compute],
) {
    dispatch(isa, WgradTiles { x, g, plane, count, width, height, ahead, firsts, sums });
}

/// All register tiles of a task, for one block of pixels.
struct WgradTiles<'a, D: Storage> {
    x: &'a [D::Compute],
    g: &'a [D::Compute],
    plane: usize,
    count: usize,
    width: usize,
    height: usize,
    ahead: [Prefetch<'a, D>; 2],
    firsts: (usize, usize),
    sums: &'a mut [D::Compute],
}

impl<D: Storage> Kernel<D::Compute> for WgradTiles<'_, D> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = D::Compute>>(self) {
        let WgradTiles { x, g, plane, count, width, height, ahead, firsts, sums } = self;
        let [columns, rows] = [width, height].map(|channels| channels / S::LANES);
        assert!(count * S::LANES <= plane && columns * plane <= x.len() && rows * plane <= g.len());
        assert!(sums.len() == columns * rows * S::LANES * S::LANES);
        let lines = [ahead[0].lines(firsts.0, width), ahead[1].lines(firsts.1, height)];
        let mut ahead = LineCursor::new(lines, count, columns.div_ceil(2) * height.div_ceil(rows_of::<S>()));
        for column in (0..columns).step_by(2) {
            let vectors = 2.min(columns - column);
            let mut channel = 0;
            while channel < height {
                let rows = next_rows::<S>(height - channel);
                ahead.advance();
                // SAFETY: the CPU has S's instructions; planes and sums are as long as asserted, and hold the tile's
                // channels.
                unsafe {
                    let x = x.as_ptr().add(column * plane);
                    let g = (g.as_ptr(), channel);
                    let sums = sums.as_mut_ptr().add((column * height + channel * vectors) * S::LANES);
                    macro_rules! tile {
                        ($rows:literal) => {
                            match vectors {
                                2 => tile::<S, $rows, 2>(x, g, plane, count, sums),
                                _ => tile::<S, $rows, 1>(x, g, plane, count, sums),
                            }
                        };
                    }
                    if const { rows_of::<S>() == 6 } {
                        match rows {
                            6 => tile!(6),
                            _ => tile!(4),
                        }
                    } else if const { rows_of::<S>() == 8 } {
                        tile!(8)
                    } else if const { rows_of::<S>() == 4 } {
                        tile!(4)
                    } else {
                        tile!(2)
                    }
                }
                channel += rows;
            }
        }
    }
}

/// Gradient channels per register tile.
const fn rows_of<S: Simd>() -> usize {
    match (S::TILE, S::LANES) {
        // With 16 registers: twelve sums, two vectors of x and one value of g. Two FMAs start per cycle and each takes four
        // cycles, so eight sums, of four rows, would just do, and every delay would show.
        (6, _) => 6,
        (_, 16) => 8,
        (_, 8 | 4) => 4,
        _ => 2,
    }
}

/// Gradient channels of the next register tile, of `left`, a multiple of LANES: all of them are tiles of [`rows_of`] rows, or
/// of 6 and 4.
const fn next_rows<S: Simd>(left: usize) -> usize {
    match rows_of::<S>() {
        6 if left == 8 || left == 4 => 4,
        rows => rows,
    }
}

/// Adds `M` gradient channels from `channel` on times `V` vectors of input channels to their sums.
///
/// # Safety
/// The CPU has `S`'s instructions; `count` vectors lie in each of `V` planes from `x` on, and in the planes from `g` on that
/// have the channels; the sums exist.
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const V: usize>(
    x: *const S::T,
    (g, channel): (*const S::T, usize),
    plane: usize,
    count: usize,
    sums: *mut S::T,
) {
    // SAFETY: the function's contract.
    unsafe {
        let mut rows = [g; M];
        for m in 0..M {
            // Where rows divide a vector, they are neighbours in one plane.
            let (first, lane) = if const { S::LANES % M == 0 } { (channel, m) } else { (channel + m, 0) };
            rows[m] = g.add(first / S::LANES * plane + first % S::LANES + lane);
        }
        let mut acc = [[S::zero(); V]; M];
        for p in 0..count {
            let mut read = [S::zero(); V];
            for v in 0..V {
                read[v] = S::load(x.add(v * plane + p * S::LANES));
            }
            for m in 0..M {
                let g = S::splat(rows[m].add(p * S::LANES));
                for v in 0..V {
                    acc[m][v] = S::fma(g, read[v], acc[m][v]);
                }
            }
        }
        for m in 0..M {
            for v in 0..V {
                let sum = sums.add((m * V + v) * S::LANES);
                S::store(sum, S::add(S::load(sum), acc[m][v]));
            }
        }
    }
}
