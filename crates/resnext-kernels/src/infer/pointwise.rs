//! Dense 1×1 convolutions with AVX2, in f32 and int8: a matrix product over packed pixels.
//!
//! Sixteen registers hold a tile of six pixels times two vectors of output channels: twelve multiply-adds for eight loads.
//! A task first packs its pixels, so that the six values that one channel's weights are multiplied with follow each other,
//! and one pointer walks through all of a tile. Channels are taken in blocks whose weights stay in the first-level cache
//! while all of the task's pixels pass; sums wait in memory between two blocks. Every sum adds its products in the order of
//! channels, as the direct kernel does: both give the same bits.
//!
//! In int8, a word is four channels instead of one, and all else is the same. Weights that lie in memory as bf16 are widened
//! block by block.

use super::direct;
use super::dot_product::{DotProduct, V};
use super::finish::Finish;
use super::job::{ConvJob, Epilogue, PixelSources, PixelView};
use super::packed::{Filter, PackedPanels, Panel};
use super::precision::{DotKernel, Precision, bytes_mut};
use super::prefetch_plan::{Outputs, PrefetchPlan};
use crate::memory::aligned::AlignedBuffer;
use crate::memory::prefetch::{CacheLevel, prefetch};
use crate::memory::scratch::Scratch;
use crate::simd::dispatch::Isa;
use crate::simd::traits::{MAX_LANES, Simd};
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

/// Words of channels per block: two vectors of weights for each take half of a first-level cache of 32 KB.
const BLOCK: usize = 256;

/// Words of channels between two prefetches of coming weights; a vector of them is packed at a time.
const STEP: usize = 8;

/// Weights from those in use to those that are prefetched into the first-level cache: 512 bytes, some 50 cycles ahead of
/// their use, more than the second-level cache takes to answer.
const DISTANCE: usize = 128;

/// Whether this kernel supports a convolution.
pub fn supports(precision: Precision, filter: &Filter) -> bool {
    let Filter { groups, taps, columns, group_in, group_out, .. } = *filter;
    matches!(precision, Precision::F32(Isa::Avx2) | Precision::Int8(Isa::Avx2))
        && (groups, taps, columns) == (1, 1, 1)
        && group_in.is_multiple_of(STEP * precision.channels())
        && group_out.is_multiple_of(LANES)
}

/// Packs a filter, as the direct kernel does: `[word of channels][vectors · LANES]`.
pub fn pack(precision: Precision, filter: &Filter) -> PackedPanels {
    direct::pack(precision, filter).panels
}

/// Buffers that a thread keeps between tasks.
#[derive(Default)]
struct Copies {
    /// The job and the first pixel that the packed pixels belong to.
    of: (u64, usize),
    /// Packed pixels, `[block][tile][word of the block][pixel of the tile]`.
    pixels: AlignedBuffer,
    /// Sums between two blocks, `[panel of the task][pixel][vectors · LANES]`.
    sums: AlignedBuffer,
    /// The widened weights of a block.
    weights: Scratch<f32>,
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
    let out = &SharedSlice::new(bytes_mut(out));
    let split = Split::between(count, UNIT, packed.list.len(), team.threads());
    team.for_each(split.tasks(), |i| {
        let (pixels, panels) = split.get(i);
        let depth = packed.list[0].depth;
        let steps = pixels.len().div_ceil(TILE) * depth.div_ceil(STEP);
        let plan = packed.prefetch_plan((i, split.tasks()), |task| split.get(task).1, steps, ahead);
        COPIES.with_borrow_mut(|copies| {
            let task = PointwiseTask {
                packed,
                depth,
                pixels,
                panels,
                src,
                sources,
                residual,
                epilogue,
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
    /// Words of channels per pixel.
    depth: usize,
    pixels: Range<usize>,
    panels: Range<usize>,
    src: PixelView<'a>,
    sources: PixelSources<'a>,
    residual: Option<PixelView<'a>>,
    epilogue: Epilogue,
    out: &'a SharedSlice<'a, u8>,
    /// The number of words from one output pixel to the next.
    out_stride: usize,
    plan: PrefetchPlan,
}

impl PointwiseTask<'_> {
    fn compute(&self, job: u64, copies: &mut Copies) {
        let (count, depth) = (self.pixels.len(), self.depth);
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
                let Copies { pixels: packed, sums, weights, .. } = copies;
                let sums = match depth > BLOCK {
                    true => &mut sums[i * per_panel..(i + 1) * per_panel],
                    false => &mut [],
                };
                let (first, per_word) = (panel.weights.start, panel.vectors * LANES);
                let words = first + channels.start * per_word..first + channels.end * per_word;
                let weights = self.packed.widened(words, weights);
                for (size, pixels) in tiles(count) {
                    let strip = Strip { task: self, pixels, channels: channels.clone() };
                    strip.multiply(size, Operands { panel, weights, packed, sums });
                }
            }
        }
    }
}

/// Elements per vector of AVX2.
const LANES: usize = 8;

/// The blocks of words.
fn blocks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    (0..depth).step_by(BLOCK).map(move |first| first..depth.min(first + BLOCK))
}

/// Tiles of one size and a block of their words.
struct Strip<'a> {
    task: &'a PointwiseTask<'a>,
    /// The tiles' pixels, counted from the task's first.
    pixels: Range<usize>,
    channels: Range<usize>,
}

/// The operands of tiles, and the buffer of their sums between blocks.
struct Operands<'a> {
    panel: &'a Panel,
    /// The panel's weights for the block.
    weights: &'a [f32],
    packed: &'a [f32],
    sums: &'a mut [f32],
}

impl Strip<'_> {
    /// Where the packed channels of the tile that begins with pixel `first` begin.
    #[inline(always)]
    fn place(&self, first: usize) -> usize {
        self.channels.start * self.task.pixels.len() + first * self.channels.len()
    }

    fn pack(self, size: usize, to: &mut [f32]) {
        let precision = self.task.packed.precision;
        match size {
            6 => precision.dispatch(PackTiles::<6>(self, to)),
            5 => precision.dispatch(PackTiles::<5>(self, to)),
            4 => precision.dispatch(PackTiles::<4>(self, to)),
            3 => precision.dispatch(PackTiles::<3>(self, to)),
            2 => precision.dispatch(PackTiles::<2>(self, to)),
            _ => precision.dispatch(PackTiles::<1>(self, to)),
        }
    }

    /// Multiplies the tiles with a panel.
    fn multiply(self, size: usize, operands: Operands) {
        match operands.panel.vectors {
            1 => self.multiply_vectors::<1>(size, operands),
            _ => self.multiply_vectors::<2>(size, operands),
        }
    }

    fn multiply_vectors<const N: usize>(self, size: usize, operands: Operands) {
        let precision = self.task.packed.precision;
        match size {
            6 => precision.dispatch(Tiles::<6, N>(self, operands)),
            5 => precision.dispatch(Tiles::<5, N>(self, operands)),
            4 => precision.dispatch(Tiles::<4, N>(self, operands)),
            3 => precision.dispatch(Tiles::<3, N>(self, operands)),
            2 => precision.dispatch(Tiles::<2, N>(self, operands)),
            _ => precision.dispatch(Tiles::<1, N>(self, operands)),
        }
    }
}

/// Whether kernels are compiled for `S`: [`supports`] accepts AVX2 alone.
const fn is_avx2<S: Simd>() -> bool {
    S::TILE == TILE && S::LANES == LANES
}

/// Packs the pixels of tiles of `M`.
struct PackTiles<'a, 'b, const M: usize>(Strip<'a>, &'b mut [f32]);

impl<const M: usize> DotKernel for PackTiles<'_, '_, M> {
    #[inline(always)]
    unsafe fn with_dot<W: DotProduct>(self) {
        if const { !is_avx2::<W::S>() } {
            unreachable!("`supports` accepts AVX2 alone");
        }
        let PackTiles(strip, to) = self;
        let PointwiseTask { pixels, src, sources, .. } = strip.task;
        let channels = strip.channels.clone();
        for first in strip.pixels.clone().step_by(M) {
            let mut rows = [src.data.as_ptr(); M];
            for m in 0..M {
                let pixel = pixels.start + first + m;
                let at = match sources {
                    PixelSources::Same => pixel * src.stride,
                    PixelSources::Table(table) => table.offsets[pixel] as usize,
                };
                rows[m] = src.data[at..at + channels.end][channels.start..].as_ptr();
            }
            let to = to[strip.place(first)..][..M * channels.len() + LANES].as_mut_ptr();
            for c in (0..channels.len()).step_by(LANES) {
                // SAFETY: the CPU has W's instructions; a pixel has whole vectors of words, and after the packed ones is
                // room for one more vector.
                unsafe {
                    W::S::store_columns(rows, to.add(c * M));
                    for m in 0..M {
                        rows[m] = rows[m].wrapping_add(LANES);
                    }
                }
            }
        }
    }
}

/// Multiplies tiles of `M` pixels with `N` vectors of weights, each kind of tile a function of its own: only then do all
/// sums stay in registers.
struct Tiles<'a, 'b, const M: usize, const N: usize>(Strip<'a>, Operands<'b>);

impl<const M: usize, const N: usize> DotKernel for Tiles<'_, '_, M, N> {
    #[inline(always)]
    unsafe fn with_dot<W: DotProduct>(self) {
        if const { !is_avx2::<W::S>() } {
            unreachable!("`supports` accepts AVX2 alone");
        }
        let Tiles(strip, Operands { panel, weights, packed, sums }) = self;
        let task = strip.task;
        let Range { start, end } = strip.channels;
        let (depth, steps) = (end - start, (end - start) / STEP);
        let last = end == task.depth;
        assert_eq!(weights.len(), depth * N * LANES);
        let weights = weights.as_ptr();
        let constants = if W::SCALED { 2 } else { 1 };
        let bias = &task.packed.bias[panel.bias.clone()][..constants * N * LANES];
        if start > 0 || !last {
            assert!(sums.len() >= strip.pixels.end * N * LANES);
        }
        for first in strip.pixels.clone().step_by(M) {
            let x = packed[strip.place(first)..][..M * depth].as_ptr();
            let (pixel, place) = (task.pixels.start + first, first * N * LANES);
            let waiting = sums.as_mut_ptr().wrapping_add(place);
            // SAFETY: the CPU has W's instructions; there are `depth` packed words of M pixels and as many rows of weights;
            // `convolve` checked output and residual; sums that are read or written were asserted.
            unsafe {
                let mut acc = [[W::S::zero(); N]; M];
                for v in 0..N {
                    let bias = match W::SCALED {
                        true => W::S::zero(),
                        false => W::S::load(bias.as_ptr().add(v * LANES)),
                    };
                    for m in 0..M {
                        acc[m][v] = match start {
                            0 => bias,
                            _ => W::S::load(waiting.add((m * N + v) * LANES)),
                        };
                    }
                }
                if last {
                    let out = (task.out.as_ptr().cast(), task.out_stride);
                    let word = panel.dst_channel * W::BYTES / 4;
                    let mut outputs = Outputs::new(out, task.residual, (pixel, word), M);
                    outputs.prefetch(M, N * LANES * W::BYTES / 4);
                }
                let mut fetch = task.plan.take(steps);
                let (mut x, mut w) = (x, weights);
                for _ in 0..steps {
                    fetch.step(1, CacheLevel::Second);
                    for _ in 0..STEP {
                        prefetch(w.wrapping_add(DISTANCE), CacheLevel::First);
                        let mut vectors = [W::S::zero(); N];
                        for v in 0..N {
                            vectors[v] = W::S::load(w.add(v * LANES));
                        }
                        for m in 0..M {
                            let x = W::S::splat(x.add(m));
                            for v in 0..N {
                                acc[m][v] = W::dot(x, vectors[v], acc[m][v]);
                            }
                        }
                        (x, w) = (x.add(M), w.add(N * LANES));
                    }
                }
                if !last {
                    for m in 0..M {
                        for v in 0..N {
                            W::S::store(waiting.add((m * N + v) * LANES), acc[m][v]);
                        }
                    }
                    continue;
                }
                let place = |stride: usize| 4 * pixel * stride + panel.dst_channel * W::BYTES;
                let len = 4 * (M - 1) * task.out_stride + panel.width * W::BYTES;
                let out = task.out.pointer(place(task.out_stride), len);
                let residual = task.residual;
                let residual = residual
                    .map(|r| (r.data.as_ptr().cast::<u8>().wrapping_add(place(r.stride)), 4 * r.stride));
                let finish = Finish::<W>::new(&task.epilogue);
                for m in 0..M {
                    let mut outputs: [V<W>; N] = acc[m];
                    for v in 0..N {
                        let residual = residual.map(|(at, stride)| at.add(m * stride + v * LANES * W::BYTES));
                        let constants = bias.as_ptr().add(v * LANES);
                        outputs[v] = finish.outputs(outputs[v], constants, N * LANES, residual);
                    }
                    let out = out.add(4 * m * task.out_stride);
                    match N {
                        2 => W::store_both(out, [outputs[0], outputs[N - 1]]),
                        _ => W::store(out, outputs[0]),
                    }
                }
            }
        }
    }
}
