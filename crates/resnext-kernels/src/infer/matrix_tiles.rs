//! Convolutions in bf16 and int8 by AMX's tiles of 32 pixels times 32 output channels.
//!
//! Weights lie as in the direct kernel, `[kernel position][word][2 · LANES]`, which is the order of tiles. Pixels of a 1×1
//! convolution of stride 1 are read in place. Others are copied first, so that what a pixel's kernel positions read follows
//! each other and pixels lie at a constant distance.
//!
//! Narrow groups are left to the other kernels, since copying takes longer than their products do (see
//! `docs/notes/performance.md`).

use super::direct;
use super::dot_product::{DotProduct, V};
use super::job::{ConvJob, PixelSources, SourceTable};
use super::packed::{DirectWeights, Filter};
use super::precision::{DotKernel, Precision, bytes_mut};
use super::tiles::{DirectTask, Strip};
use crate::memory::prefetch::CacheLevel;
use crate::memory::scratch::Scratch;
use crate::simd::amx::{self, Amx, BLOCK, Emulated, Sums, TILE, TileOperands, TileShape, TileUnit};
use crate::simd::dispatch::Isa;
use crate::simd::traits::Simd;
use crate::threads::shared_slice::SharedSlice;
use crate::threads::split::Split;
use crate::threads::team::ThreadTeam;
use std::ops::Range;

/// The fewest words of channels. With fewer, most of a tile would be zeros.
const FEWEST: usize = 4;

/// The fewest words of channels of a group. In int8, other kernels are twice as fast as in bf16.
const FEWEST_OF_GROUP_BF16: usize = 8;
const FEWEST_OF_GROUP_INT8: usize = 16;

/// The most words of channels whose weights for 32 output channels stay in a first-level cache of 48 KB, beside pixels.
const KEPT_WORDS: usize = 256;

/// Products of tiles between two prefetches of coming weights.
const STEP: usize = 4;

/// Pixels whose sums are finished together.
const FINISHED: usize = 4;

/// Where integer sums start.
static ZEROS: [f32; TILE] = [0.0; TILE];

/// Words per product for pixels of `words` words: whole tiles, or one that is not full. `None` if neither fits.
fn words_per_product(words: usize) -> Option<usize> {
    match words {
        FEWEST..TILE => Some(words),
        _ if words > 0 && words.is_multiple_of(TILE) => Some(TILE),
        _ => None,
    }
}

/// Whether this kernel supports a convolution.
pub fn supports(precision: Precision, filter: &Filter) -> bool {
    let Filter { groups, group_in, group_out, .. } = *filter;
    let channels = precision.channels();
    let words = group_in.div_ceil(channels);
    let fewest = if channels == 4 { FEWEST_OF_GROUP_INT8 } else { FEWEST_OF_GROUP_BF16 };
    let wide = group_in.is_multiple_of(channels) && group_out >= TILE && words >= fewest;
    precision.isa() == Isa::Amx && channels > 1 && (groups == 1 || wide) && words_per_product(words).is_some()
}

/// Packs a filter, as the direct kernel does.
pub fn pack(precision: Precision, filter: &Filter) -> DirectWeights {
    direct::pack_columns(precision, &Filter { columns: 1, ..*filter })
}

/// Computes all output pixels of a job.
pub fn convolve(weights: &DirectWeights, team: &ThreadTeam, sources: PixelSources, job: ConvJob) {
    let DirectWeights { panels: packed, taps, .. } = weights;
    packed.check(&job);
    sources.check(&job, *taps, packed.reach());
    let in_place = matches!(sources, PixelSources::Same);
    assert!(*taps == 1 || !in_place, "several kernel positions are looked up in a table");
    let ConvJob { src, residual, epilogue, count, out, out_stride, ahead } = job;
    let out = &SharedSlice::new(bytes_mut(out));
    let split = Split {
        panels_first: packed.out_channels > count,
        ..Split::between(count, BLOCK, packed.list.len(), team.threads())
    };
    team.for_each(split.tasks(), |task| {
        let (pixels, panels) = split.get(task);
        let panels = &packed.list[panels];
        let (_, products) = products(*taps, panels[0].depth);
        let steps = pixels.len().div_ceil(BLOCK) * products.div_ceil(STEP);
        let plan = packed.prefetch_plan((task, split.tasks()), |task| split.get(task).1, steps, ahead);
        let row = None;
        let task = DirectTask {
            weights,
            src,
            sources,
            row,
            residual,
            epilogue,
            pixels,
            panels,
            out,
            out_stride,
            plan,
        };
        packed.precision.dispatch(MatrixTask(&task));
    });
}

/// Words per product, and products per block, of `taps` kernel positions of `depth` words.
fn products(taps: usize, depth: usize) -> (usize, usize) {
    let per_product = words_per_product(depth).expect("`supports` asked for it");
    (per_product, taps * depth / per_product)
}

struct MatrixTask<'a>(&'a DirectTask<'a>);

impl DotKernel for MatrixTask<'_> {
    #[inline(always)]
    unsafe fn with_dot<W: DotProduct>(self) {
        if const { W::S::LANES != TILE || W::CHANNELS == 1 } {
            unreachable!("`supports` accepts bf16 and int8 by AMX alone");
        }
        // SAFETY: the same contract.
        unsafe {
            match amx::available() {
                true => self.compute::<W, Amx>(),
                // In tests, on CPUs with AVX-512 alone.
                false => self.compute::<W, Emulated>(),
            }
        }
    }
}

impl MatrixTask<'_> {
    /// # Safety
    /// The CPU has `W`'s instructions.
    #[inline(always)]
    unsafe fn compute<W: DotProduct, U: TileUnit>(self) {
        let task = self.0;
        let blocks =
            || task.pixels.clone().step_by(BLOCK).map(|first| first..task.pixels.end.min(first + BLOCK));
        let mut scratch = Scratch::default();
        let mut pipeline = Pipeline::<U>::new(&mut scratch);
        // SAFETY: the CPU has W's instructions; `convolve` checked source, output and residual.
        unsafe {
            match task.sources {
                PixelSources::Same => {
                    for panel in task.panels {
                        for pixels in blocks() {
                            let first = pixels.start * task.src.stride + panel.src_word;
                            let source = (task.src.data[first..].as_ptr(), task.src.stride);
                            pipeline.multiply::<W>(Strip { task, panel, pixels, values: &[] }, source);
                        }
                    }
                }
                PixelSources::Table(table) => {
                    let row = task.weights.taps * task.panels[0].depth;
                    // A cache line more, as rows whose distance is a power of two would share places in the cache.
                    let stride = row.next_multiple_of(TILE) + TILE;
                    let mut copies = Scratch::default();
                    let copies = copies.get(BLOCK * stride);
                    for pixels in blocks() {
                        let mut copied = None;
                        for panel in task.panels {
                            let strip = Strip { task, panel, pixels: pixels.clone(), values: &[] };
                            if copied.replace(panel.src_word) != Some(panel.src_word) {
                                copy::<W>(&strip, table, copies, stride);
                            }
                            pipeline.multiply::<W>(strip, (copies.as_ptr(), stride));
                        }
                    }
                }
            }
            pipeline.finish::<W>(BLOCK);
        }
    }
}

/// Copies what the kernel positions of a strip's pixels read of its panel's group: `[pixel][kernel position][word]`.
///
/// # Safety
/// The CPU has `W`'s instructions.
#[inline(always)]
unsafe fn copy<W: DotProduct>(strip: &Strip, table: &SourceTable, copies: &mut [f32], stride: usize) {
    let Strip { task, panel, pixels, .. } = strip;
    let (taps, depth, data) = (task.weights.taps, panel.depth, task.src.data);
    let whole = depth.next_multiple_of(TILE);
    for (row, pixel) in copies.chunks_exact_mut(stride).zip(pixels.clone()) {
        let offsets = &table.offsets[pixel * taps..(pixel + 1) * taps];
        for (tap, &offset) in offsets.iter().enumerate() {
            let from = &data[offset as usize + panel.src_word..];
            let to = &mut row[tap * depth..];
            if from.len() < whole {
                to[..depth].copy_from_slice(&from[..depth]);
                continue;
            }
            let to = &mut to[..whole];
            for word in (0..whole).step_by(TILE) {
                // SAFETY: both slices have whole vectors. What is written after a kernel position's words is overwritten by
                // those of the next.
                unsafe { W::S::store(to.as_mut_ptr().add(word), W::S::load(from.as_ptr().add(word))) };
            }
        }
    }
}

/// Blocks in turn: while tiles of one are multiplied, the sums of the one before it are finished, as vectors and tiles have
/// units of their own.
struct Pipeline<'a, U> {
    unit: U,
    /// The sums of the strip that is waiting, and those of the next one.
    sums: [&'a mut Sums; 2],
    /// A strip whose sums are complete, and how many of its pixels are finished.
    waiting: Option<(Strip<'a>, usize)>,
}

impl<'a, U: TileUnit> Pipeline<'a, U> {
    fn new(scratch: &'a mut Scratch<f32>) -> Self {
        // Not on the stack, where they would not begin with a cache line.
        let (pixels, _) = scratch.get(2 * BLOCK * BLOCK).as_chunks_mut();
        let (one, other) = pixels.split_at_mut(BLOCK);
        let sums = [one, other].map(|pixels| pixels.try_into().expect("a block has as many sums"));
        Pipeline { unit: U::default(), sums, waiting: None }
    }

    /// Multiplies a strip of at most 32 pixels with its panel's weights. The pixels' words begin at `source`, which is the
    /// first pixel's place and the words from one pixel to the next.
    ///
    /// # Safety
    /// The CPU has `W`'s instructions; the pixels' words can be read, and output and residual have the strip's pixels.
    #[inline(always)]
    unsafe fn multiply<W: DotProduct>(
        &mut self,
        strip: Strip<'a>,
        (pixel, pixel_stride): (*const f32, usize),
    ) {
        let Strip { task, panel, ref pixels, .. } = strip;
        let DirectWeights { panels: packed, taps, .. } = task.weights;
        let (per_product, products) = products(*taps, panel.depth);
        let (width, count) = (panel.vectors * TILE, pixels.len());
        // If there is one pixel, both tiles read it, and the second one's sums are ignored.
        let tiles = [count.div_ceil(2), (count / 2).max(1)];
        let weights = packed.weights[panel.weights.clone()].as_ptr();
        let mut operands = TileOperands {
            pixels: [pixel, pixel.wrapping_add((count - tiles[1]) * pixel_stride)],
            pixel_stride,
            // Likewise for a panel of one vector.
            weights: [weights, weights.wrapping_add(width - TILE)],
            weight_stride: width,
        };
        let streams = products * per_product <= KEPT_WORDS;
        self.unit.configure(TileShape { pixels: tiles, words: per_product, int8: W::CHANNELS == 4, streams });
        if W::SCALED {
            self.unit.start([&ZEROS; 2]);
        } else {
            let (bias, _) = packed.bias[panel.bias.clone()].as_chunks();
            self.unit.start([&bias[0], &bias[panel.vectors - 1]]);
        }
        let mut outputs = strip.outputs::<W>(pixels.start, count);
        let steps = products.div_ceil(STEP);
        let mut fetch = task.plan.take(steps);
        // Pixels of the waiting strip per step.
        let each = BLOCK.div_ceil(steps).next_multiple_of(FINISHED);
        for step in (0..products).step_by(STEP) {
            fetch.step(1, CacheLevel::Second);
            outputs.prefetch(each, width * W::BYTES / 4);
            // SAFETY: the function's contract; the panel has weights for all words.
            unsafe {
                self.unit.accumulate(&mut operands, STEP.min(products - step));
                self.finish::<W>(each);
            }
        }
        self.sums.swap(0, 1);
        self.unit.store(self.sums[0]);
        self.waiting = Some((strip, 0));
    }

    /// Finishes the sums of up to `pixels` pixels of the waiting strip.
    ///
    /// # Safety
    /// As for [`Strip::finish`].
    #[inline(always)]
    unsafe fn finish<W: DotProduct>(&mut self, pixels: usize) {
        let Some((strip, done)) = &mut self.waiting else { return };
        let (first, end) = (*done, strip.pixels.len().min(*done + pixels));
        *done = end;
        // SAFETY: the same contract.
        unsafe {
            match strip.panel.vectors {
                1 => finish_pixels::<W, 1>(strip, first..end, self.sums[0]),
                _ => finish_pixels::<W, 2>(strip, first..end, self.sums[0]),
            }
        }
    }
}

/// Finishes the sums of some pixels of a strip, `N` vectors each.
///
/// # Safety
/// As for [`Strip::finish`].
#[inline(always)]
unsafe fn finish_pixels<W: DotProduct, const N: usize>(strip: &Strip, pixels: Range<usize>, sums: &Sums) {
    let whole = pixels.start + pixels.len() / FINISHED * FINISHED;
    // SAFETY: the same contract.
    unsafe {
        for pixel in (pixels.start..whole).step_by(FINISHED) {
            finish_some::<W, FINISHED, N>(strip, pixel, sums);
        }
        for pixel in whole..pixels.end {
            finish_some::<W, 1, N>(strip, pixel, sums);
        }
    }
}

/// Finishes the sums of `M` pixels of a strip from `pixel` on.
///
/// # Safety
/// As for [`Strip::finish`].
#[inline(always)]
unsafe fn finish_some<W: DotProduct, const M: usize, const N: usize>(
    strip: &Strip,
    pixel: usize,
    sums: &Sums,
) {
    // SAFETY: the same contract; sums are two vectors wide.
    unsafe {
        let mut vectors: [[V<W>; N]; M] = [[W::S::zero(); N]; M];
        for m in 0..M {
            for v in 0..N {
                vectors[m][v] = W::S::load(sums[pixel + m][v * TILE..].as_ptr());
            }
        }
        strip.finish::<W, M, N>(strip.pixels.start + pixel, vectors.as_flattened_mut());
    }
}
