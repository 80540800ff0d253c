//! The gradient of a dense convolution's weight: the outer products of what the convolution read at each pixel with the
//! output's gradient there, summed over all pixels.
//!
//! A task owns a part of the pixels and a tile of the result. The division depends on the sizes alone, and parts are added
//! in order, so the result has the same bits for any number of threads.

use super::im2col::{Patches, pixel_runs};
use super::operand::Operand;
use super::packing::{Pack, PixelRun, Prefetch};
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

/// What the convolution read at each output pixel.
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
    let mut out = vec![D::Compute::ZERO; outputs * channels];
    let (tiles, columns) = (reads.len() * writes.len(), channels);
    out.par_chunks_mut(columns.max(1)).enumerate().for_each(|(output, row)| {
        for (tile, task) in tasks[..tiles].iter().enumerate() {
            if !task.written.contains(&output) {
                continue;
            }
            let width = task.read.len();
            let row = &mut row[task.read.start..task.read.end.min(columns)];
            for part in 0..parts {
                let own = &sums[part * tiles + tile][(output - task.written.start) * width..][..row.len()];
                row.iter_mut().zip(own).for_each(|(sum, &value)| *sum += value);
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
        let plane = BLOCK * lanes;
        let mut sums = vec![D::Compute::ZERO; width * height];
        let (x, g) = scratch.get(BLOCK * (width + height)).split_at_mut(BLOCK * width);
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

/// Adds `Σ g ⊗ x` over `count` pixels in planes to sums (channels of g, channels of x). Meanwhile prefetches as many pixels
/// of x and g `ahead`, in the same channels: those from `firsts` on.
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
        for column in (0..columns).step_by(2) {
            for row in 0..height / rows_of::<S>() {
                let channel = row * rows_of::<S>();
                let (first, lane) = (channel / S::LANES, channel % S::LANES);
                // The first row of tiles prefetches x, the first column g.
                let mut next = [(Prefetch::NONE, 0); 2];
                if row == 0 {
                    next[0] = (ahead[0], firsts.0 + column * S::LANES);
                }
                if column == 0 && lane == 0 {
                    next[1] = (ahead[1], firsts.1 + channel);
                }
                // SAFETY: the CPU has S's instructions; planes and sums are as long as asserted, and a tile's rows
                // are within one plane because they divide a vector.
                unsafe {
                    let x = x.as_ptr().add(column * plane);
                    let g = g.as_ptr().add(first * plane + lane);
                    let sums = sums.as_mut_ptr().add(channel * width + column * S::LANES);
                    let pair = column + 1 < columns;
                    if const { rows_of::<S>() == 8 } {
                        match pair {
                            true => tile::<S, D, 8, 2>(x, g, plane, count, &next, sums, width),
                            false => tile::<S, D, 8, 1>(x, g, plane, count, &next, sums, width),
                        }
                    } else if const { rows_of::<S>() == 4 } {
                        match pair {
                            true => tile::<S, D, 4, 2>(x, g, plane, count, &next, sums, width),
                            false => tile::<S, D, 4, 1>(x, g, plane, count, &next, sums, width),
                        }
                    } else {
                        match pair {
                            true => tile::<S, D, 2, 2>(x, g, plane, count, &next, sums, width),
                            false => tile::<S, D, 2, 1>(x, g, plane, count, &next, sums, width),
                        }
                    }
                }
            }
        }
    }
}

/// Gradient channels per register tile.
const fn rows_of<S: Simd>() -> usize {
    match S::LANES {
        16 => 8,
        8 | 4 => 4,
        _ => 2,
    }
}

/// Adds `M` gradient channels times `V` vectors of input channels to rows of sums `stride` apart.
///
/// # Safety
/// The CPU has `S`'s instructions; `count` vectors lie at `g` and at each of `V` planes from `x` on; the sums exist.
#[inline(always)]
unsafe fn tile<S: Simd, D: Storage, const M: usize, const V: usize>(
    x: *const S::T,
    g: *const S::T,
    plane: usize,
    count: usize,
    next: &[(Prefetch<D>, usize); 2],
    sums: *mut S::T,
    stride: usize,
) {
    // SAFETY: the function's contract.
    unsafe {
        let mut acc = [[S::zero(); V]; M];
        for p in 0..count {
            for v in 0..V {
                next[0].0.prefetch(p, next[0].1 + v * S::LANES);
            }
            next[1].0.prefetch(p, next[1].1);
            let mut read = [S::zero(); V];
            for v in 0..V {
                read[v] = S::load(x.add(v * plane + p * S::LANES));
            }
            for m in 0..M {
                let g = S::splat(g.add(p * S::LANES + m));
                for v in 0..V {
                    acc[m][v] = S::fma(g, read[v], acc[m][v]);
                }
            }
        }
        for m in 0..M {
            for v in 0..V {
                let sum = sums.add(m * stride + v * S::LANES);
                S::store(sum, S::add(S::load(sum), acc[m][v]));
            }
        }
    }
}
