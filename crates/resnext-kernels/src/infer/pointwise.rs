//! Dense 1×1 convolutions in f32 with AVX2: a matrix product over packed pixels.
//!
//! Sixteen registers hold a tile of six pixels times two vectors of output channels: twelve multiply-adds for eight loads.
//! A task first packs its pixels, so that the six values that one channel's weights are multiplied with follow each other,
//! and one pointer walks through all of a tile. Channels are taken in blocks whose weights stay in the first-level cache
//! while all of the task's pixels pass; sums wait in memory between two blocks. Every sum adds its products in the order of
//! channels, as the direct kernel does: both give the same bits.

use super::direct;
use super::job::{ConvJob, PixelSources, PixelView};
use super::packed::{Filter, PackedPanels, Panel};
use super::precision::Precision;
use super::prefetch_plan::{Outputs, PrefetchPlan};
use crate::memory::aligned::AlignedBuffer;
use crate::memory::prefetch::{CacheLevel, prefetch};
use crate::simd::dispatch::{Isa, dispatch};
use crate::simd::traits::{Kernel, MAX_LANES, Simd};
use crate::threads::shared_slice::SharedSlice;
use crate::threads::split::Split;
use crate::threads::team::ThreadTeam;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pixels of the largest tile.
const TILE: usize = 6;

/// Neighbouring pixels that stay in one task, of which `Split` takes seven times as many: as in the direct kernel, so that a
/// thread finds in its cache what it wrote in the layer before.
const UNIT: usize = 14;

/// Channels per block: two vectors of weights for each take half of a first-level cache of 32 KB.
const BLOCK: usize = 256;

/// Channels between two prefetches of coming weights; a vector of them is packed at a time.
const STEP: usize = 8;

/// Weights from those in use to those that are prefetched into the first-level cache: 512 bytes, some 50 cycles ahead of their
/// use, more than the second-level cache takes to answer.
const DISTANCE: usize = 128;

/// Whether this kernel computes a convolution.
pub fn suits(precision: Precision, filter: &Filter) -> bool {
    let Filter { groups, taps, columns, group_in, group_out, .. } = *filter;
    precision == Precision::F32(Isa::Avx2)
        && (groups, taps, columns) == (1, 1, 1)
        && group_in.is_multiple_of(STEP)
        && group_out.is_multiple_of(STEP)
}

/// Packs a filter, as the direct kernel does: `[channel][vectors · LANES]`.
pub fn pack(precision: Precision, filter: &Filter) -> PackedPanels {
    direct::pack(precision, filter).panels
}

/// What a thread keeps between tasks.
#[derive(Default)]
struct Copies {
    /// The job and the first pixel that the packed pixels belong to.
    of: (u64, usize),
    /// Packed pixels, `[block][tile][channel of the block][pixel of the tile]`.
    pixels: AlignedBuffer,
    /// Sums between two blocks, `[panel of the task][pixel][vectors · LANES]`.
    sums: AlignedBuffer,
}

thread_local! {
    /// Reused between calls; at most a few hundred KB where maps are small. Tasks with the same pixels follow each other on
    /// a thread.
    static COPIES: RefCell<Copies> = RefCell::default();
}

/// The number of the next job. Numbers start at 1; new copies belong to job 0.
static JOBS: AtomicU64 = AtomicU64::new(1);

/// Computes all output pixels of a job.
pub fn convolve(packed: &PackedPanels, team: &ThreadTeam, sources: PixelSources, job: ConvJob) {
    packed.check(&job);
    sources.check(&job, 1, packed.reach());
    let ConvJob { src, residual, epilogue, count, out, out_stride, ahead } = job;
    let number = JOBS.fetch_add(1, Ordering::Relaxed);
    let out = &SharedSlice::new(out);
    let split = Split::between(count, UNIT, packed.list.len(), team.threads());
    team.for_each(split.tasks(), |i| {
        let (pixels, panels) = split.get(i);
        let depth = packed.list[0].depth;
        let steps = pixels.len().div_ceil(TILE) * depth.div_ceil(STEP);
        let plan = packed.prefetch_plan((i, split.tasks()), |task| split.get(task).1, steps, ahead);
        let least = epilogue.least;
        COPIES.with_borrow_mut(|copies| {
            let task = PointwiseTask {
                packed,
                pixels,
                panels,
                src,
                sources,
                residual,
                least,
                out,
                out_stride,
                plan,
            };
            task.compute(number, copies);
        });
    });
}

/// Divides pixels into tiles of one size and, where that does not come out even, of one pixel more: each size with its
/// pixels.
fn tiles(pixels: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let tiles = pixels.div_ceil(TILE).max(1);
    let (size, larger) = (pixels / tiles, pixels % tiles);
    let middle = larger * (size + 1);
    [(size + 1, 0..middle), (size, middle..pixels)].into_iter().filter(|(_, pixels)| !pixels.is_empty())
}

/// The part of a convolution that one thread computes at a time: some pixels times some panels.
struct PointwiseTask<'a> {
    packed: &'a PackedPanels,
    pixels: Range<usize>,
    panels: Range<usize>,
    src: PixelView<'a>,
    sources: PixelSources<'a>,
    residual: Option<PixelView<'a>>,
    least: f32,
    out: &'a SharedSlice<'a, f32>,
    out_stride: usize,
    plan: PrefetchPlan,
}

impl PointwiseTask<'_> {
    fn compute(&self, job: u64, copies: &mut Copies) {
        let (count, depth) = (self.pixels.len(), self.packed.list[0].depth);
        if copies.of != (job, self.pixels.start) {
            copies.pixels.grow(count * depth + MAX_LANES);
            for channels in blocks(depth) {
                for (size, pixels) in tiles(count) {
                    let strip = Strip { task: self, pixels, channels: channels.clone() };
                    strip.pack(size, &mut copies.pixels);
                }
            }
            copies.of = (job, self.pixels.start);
        }
        let panels = &self.packed.list[self.panels.clone()];
        let per_panel = count * 2 * LANES;
        if depth > BLOCK {
            copies.sums.grow(panels.len() * per_panel);
        }
        for channels in blocks(depth) {
            for (i, panel) in panels.iter().enumerate() {
                let sums = match depth > BLOCK {
                    true => &mut copies.sums[i * per_panel..(i + 1) * per_panel],
                    false => &mut [],
                };
                for (size, pixels) in tiles(count) {
                    let strip = Strip { task: self, pixels, channels: channels.clone() };
                    strip.multiply(size, panel, &copies.pixels, sums);
                }
            }
        }
    }
}

/// Elements per vector of AVX2.
const LANES: usize = 8;

/// The blocks of channels.
fn blocks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    (0..depth).step_by(BLOCK).map(move |first| first..depth.min(first + BLOCK))
}

/// Tiles of one size and a block of their channels.
struct Strip<'a> {
    task: &'a PointwiseTask<'a>,
    /// The tiles' pixels, counted from the task's first.
    pixels: Range<usize>,
    channels: Range<usize>,
}

impl Strip<'_> {
    /// Where the packed channels of the tile that begins with pixel `first` begin.
    #[inline(always)]
    fn place(&self, first: usize) -> usize {
        self.channels.start * self.task.pixels.len() + first * self.channels.len()
    }

    fn pack(self, size: usize, to: &mut [f32]) {
        match size {
            6 => dispatch(Isa::Avx2, PackTiles::<6>(self, to)),
            5 => dispatch(Isa::Avx2, PackTiles::<5>(self, to)),
            4 => dispatch(Isa::Avx2, PackTiles::<4>(self, to)),
            3 => dispatch(Isa::Avx2, PackTiles::<3>(self, to)),
            2 => dispatch(Isa::Avx2, PackTiles::<2>(self, to)),
            _ => dispatch(Isa::Avx2, PackTiles::<1>(self, to)),
        }
    }

    /// Multiplies the tiles with a panel.
    fn multiply(self, size: usize, panel: &Panel, packed: &[f32], sums: &mut [f32]) {
        match panel.vectors {
            1 => self.multiply_vectors::<1>(size, panel, packed, sums),
            _ => self.multiply_vectors::<2>(size, panel, packed, sums),
        }
    }

    fn multiply_vectors<const N: usize>(self, size: usize, panel: &Panel, packed: &[f32], sums: &mut [f32]) {
        let strip = self;
        match size {
            6 => dispatch(Isa::Avx2, Tiles::<6, N> { strip, panel, packed, sums }),
            5 => dispatch(Isa::Avx2, Tiles::<5, N> { strip, panel, packed, sums }),
            4 => dispatch(Isa::Avx2, Tiles::<4, N> { strip, panel, packed, sums }),
            3 => dispatch(Isa::Avx2, Tiles::<3, N> { strip, panel, packed, sums }),
            2 => dispatch(Isa::Avx2, Tiles::<2, N> { strip, panel, packed, sums }),
            _ => dispatch(Isa::Avx2, Tiles::<1, N> { strip, panel, packed, sums }),
        }
    }
}

/// Whether kernels are compiled for `S`: [`suits`] takes AVX2 alone.
const fn is_avx2<S: Simd>() -> bool {
    S::TILE == TILE && S::LANES == LANES
}

/// Packs the pixels of tiles of `M`.
struct PackTiles<'a, 'b, const M: usize>(Strip<'a>, &'b mut [f32]);

impl<const M: usize> Kernel<f32> for PackTiles<'_, '_, M> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = f32>>(self) {
        if const { !is_avx2::<S>() } {
            unreachable!("`suits` takes AVX2 alone");
        }
        let PackTiles(strip, to) = self;
        let PointwiseTask { pixels, src, sources, .. } = strip.task;
        for first in strip.pixels.clone().step_by(M) {
            let mut rows = [src.data.as_ptr(); M];
            for m in 0..M {
                let pixel = pixels.start + first + m;
                let at = match sources {
                    PixelSources::Same => pixel * src.stride,
                    PixelSources::Table(table) => table.offsets[pixel] as usize,
                };
                rows[m] = src.data[at..at + strip.channels.end][strip.channels.start..].as_ptr();
            }
            let to = to[strip.place(first)..][..M * strip.channels.len() + LANES].as_mut_ptr();
            for c in (0..strip.channels.len()).step_by(S::LANES) {
                // SAFETY: the CPU has S's instructions; a pixel has whole vectors of channels, and behind the packed ones is
                // room for one more vector.
                unsafe {
                    S::store_columns(rows, to.add(c * M));
                    for m in 0..M {
                        rows[m] = rows[m].wrapping_add(S::LANES);
                    }
                }
            }
        }
    }
}

/// Multiplies tiles of `M` pixels with `N` vectors of weights, each kind of tile a function of its own: only then do all
/// sums stay in registers.
struct Tiles<'a, 'b, const M: usize, const N: usize> {
    strip: Strip<'a>,
    panel: &'a Panel,
    packed: &'b [f32],
    sums: &'b mut [f32],
}

impl<const M: usize, const N: usize> Kernel<f32> for Tiles<'_, '_, M, N> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = f32>>(self) {
        if const { !is_avx2::<S>() } {
            unreachable!("`suits` takes AVX2 alone");
        }
        let Tiles { strip, panel, packed, sums } = self;
        let task = strip.task;
        let Range { start, end } = strip.channels;
        let (depth, steps) = (end - start, (end - start) / STEP);
        let last = end == panel.depth;
        let weights = task.packed.weights[panel.weights.clone()][start * N * LANES..end * N * LANES].as_ptr();
        let bias = &task.packed.bias[panel.bias.clone()][..N * LANES];
        if start > 0 || !last {
            assert!(sums.len() >= strip.pixels.end * N * LANES);
        }
        for first in strip.pixels.clone().step_by(M) {
            let x = packed[strip.place(first)..][..M * depth].as_ptr();
            let (pixel, place) = (task.pixels.start + first, first * N * LANES);
            let waiting = sums.as_mut_ptr().wrapping_add(place);
            // SAFETY: the CPU has S's instructions; there are `depth` packed channels of M pixels and as many rows of weights;
            // `convolve` checked output and residual; sums that are read or written were asserted.
            unsafe {
                let mut acc = [[S::zero(); N]; M];
                for v in 0..N {
                    let bias = S::load(bias.as_ptr().add(v * LANES));
                    for m in 0..M {
                        acc[m][v] = match start {
                            0 => bias,
                            _ => S::load(waiting.add((m * N + v) * LANES)),
                        };
                    }
                }
                if last {
                    let out = (task.out.as_ptr(), task.out_stride);
                    Outputs::new(out, task.residual, (pixel, panel.dst_channel), M).prefetch(M, N * LANES);
                }
                let mut fetch = task.plan.take(steps);
                let (mut x, mut w) = (x, weights);
                for _ in 0..steps {
                    fetch.step(1, CacheLevel::Second);
                    for _ in 0..STEP {
                        prefetch(w.wrapping_add(DISTANCE), CacheLevel::First);
                        let mut vectors = [S::zero(); N];
                        for v in 0..N {
                            vectors[v] = S::load(w.add(v * LANES));
                        }
                        for m in 0..M {
                            let x = S::splat(x.add(m));
                            for v in 0..N {
                                acc[m][v] = S::fma(x, vectors[v], acc[m][v]);
                            }
                        }
                        (x, w) = (x.add(M), w.add(N * LANES));
                    }
                }
                if !last {
                    for m in 0..M {
                        for v in 0..N {
                            S::store(waiting.add((m * N + v) * LANES), acc[m][v]);
                        }
                    }
                    continue;
                }
                let len = (M - 1) * task.out_stride + panel.width;
                let out = task.out.pointer(pixel * task.out_stride + panel.dst_channel, len);
                let residual = task
                    .residual
                    .map(|r| (r.data.as_ptr().wrapping_add(pixel * r.stride + panel.dst_channel), r.stride));
                let least = S::splat(&task.least);
                for m in 0..M {
                    for v in 0..N {
                        let mut y = acc[m][v];
                        if let Some((residual, stride)) = residual {
                            y = S::add(y, S::load(residual.add(m * stride + v * LANES)));
                        }
                        S::store(out.add(m * task.out_stride + v * LANES), S::max(y, least));
                    }
                }
            }
        }
    }
}
