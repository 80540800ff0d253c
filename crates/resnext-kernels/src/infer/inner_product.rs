//! Dense 1×1 convolutions in f32 with two thirds of the multiplications: Winograd's inner products (1968).
//!
//! For two channels of a pixel, `x₁w₁ + x₂w₂ = (x₁ + w₂)(x₂ + w₁) - x₁x₂ - w₁w₂`: one multiplication instead of two, and two
//! more additions. The subtracted products depend on the pixel alone or on the weights alone, and are summed once. There is
//! no gain on CPUs whose additions and multiplications share execution ports. AMD's cores have separate adders, which are
//! idle otherwise: of six channels, four are multiplied in pairs and two directly, in four multiplications and four
//! additions per output.
//!
//! The error is that of plain sums, up to a constant. Every other pair is subtracted with its weights negated, so that
//! the products to be subtracted cancel instead of growing; and pixels, as well as an output channel's weights, are
//! scaled by a power of two to a mean square near 1, so that neither dominates the sums. An output still depends on its
//! own pixel and weights alone: if an input is NaN, all outputs of its pixel are NaN, and if one is infinite, they are
//! NaN or infinite. The powers of two are clamped to 2^±60 and squares must not overflow: pixels or weights whose root
//! mean square is beyond 2^±60 lose precision. A pixel of zeros yields the bias up to rounding, 2^-60 times the
//! weights.

use super::dot_product::{DotProduct, V};
use super::job::{ConvJob, PixelSources, PixelView};
use super::packed::{Filter, PackedPanels, Panel};
use super::precision::{DotKernel, Precision};
use super::prefetch_plan::{Outputs, PrefetchPlan};
use crate::memory::aligned::AlignedBuffer;
use crate::memory::prefetch::CacheLevel;
use crate::simd::traits::{MAX_LANES, Simd};
use crate::threads::shared_slice::SharedSlice;
use crate::threads::split::Split;
use crate::threads::team::ThreadTeam;
use std::cell::RefCell;
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Channels that are multiplied together: a pair that is added, a single one, a pair that is subtracted, a single one.
const GROUP: usize = 6;

/// For each channel of a group, the factor of its product with the next channel in the correction of the sums.
const TAKEN_OFF: [f32; GROUP] = [-1.0, 0.0, 0.0, 1.0, 0.0, 0.0];

/// Pixels of the largest tile.
const TILE: usize = 12;

/// Channels of a pixel that are packed side by side: whole groups and whole vectors.
const BLOCK: usize = 240;

/// Elements from one pixel's block to the next pixel's: a block is followed by zeros, up to a whole group and one more.
const ROW: usize = BLOCK + MAX_LANES;

/// Groups between two prefetches; it divides the groups of a block.
const STEP: usize = 4;
const _: () = assert!(BLOCK.is_multiple_of(GROUP * STEP) && BLOCK.is_multiple_of(MAX_LANES));

/// Independent sums of squares per pixel, as each addition waits for the one before it on the same sum.
const SIDE_BY_SIDE: usize = 4;

/// Whether this kernel supports a convolution.
pub fn supports(precision: Precision, filter: &Filter) -> bool {
    let Filter { groups, taps, columns, group_in, group_out, .. } = *filter;
    matches!(precision, Precision::F32(isa) if isa.has_adders())
        && (groups, taps, columns) == (1, 1, 1)
        && group_in.is_multiple_of(SIDE_BY_SIDE * MAX_LANES)
        && group_out.is_multiple_of(2 * MAX_LANES)
}

/// Whether kernels are compiled for `W`. [`supports`] accepts f32 with AVX-512 alone.
const fn is_f32_of_avx512<W: DotProduct>() -> bool {
    W::CHANNELS == 1 && W::S::LANES == 16
}

/// Packs a filter.
pub fn pack(precision: Precision, filter: &Filter) -> PackedPanels {
    let list = panels(precision, filter);
    PackedPanels::pack(precision, filter, list, |panel, values, constants| {
        fill(panel, values, constants, filter);
    })
}

/// Panels of two vectors. Weights are packed as `[group][channel of the group][2 · LANES]`; the biases are followed by the
/// powers of two that the channels' weights were divided by, and by the corrections of their sums.
fn panels(precision: Precision, filter: &Filter) -> Vec<Panel> {
    let (lanes, _) = precision.tile();
    let (depth, width) = (filter.group_in, 2 * lanes);
    let size = depth.next_multiple_of(GROUP) * width;
    (0..filter.group_out / width)
        .map(|i| Panel {
            weights: i * size..(i + 1) * size,
            bias: i * 3 * width..(i + 1) * 3 * width,
            src_word: 0,
            dst_channel: i * width,
            width,
            vectors: 2,
            depth,
            spanning: false,
        })
        .collect()
}

/// Writes a panel's weights and the constants after its biases.
fn fill(panel: &Panel, values: &mut [f32], constants: &mut [f32], filter: &Filter) {
    let Panel { depth, width, dst_channel, .. } = *panel;
    let (scales, corrections) = constants[width..].split_at_mut(width);
    let mut columns = vec![0f32; width * (depth + GROUP)];
    for (l, column) in columns.chunks_exact_mut(depth + GROUP).enumerate() {
        column[..depth].copy_from_slice(filter.channel(dst_channel + l));
        // Independent sums, as each addition waits for the one before it on the same sum.
        let mut squares = [0f32; MAX_LANES];
        for part in column[..depth].chunks_exact(MAX_LANES) {
            squares.iter_mut().zip(part).for_each(|(sum, w)| *sum += w * w);
        }
        let scale = near_root(squares.iter().sum::<f32>() / depth as f32);
        column.iter_mut().for_each(|w| *w /= scale);
        let mut products = [0f64; GROUP];
        for group in column.chunks_exact(GROUP) {
            for i in 0..GROUP - 1 {
                products[i] += f64::from(TAKEN_OFF[i]) * f64::from(group[i]) * f64::from(group[i + 1]);
            }
        }
        scales[l] = scale;
        corrections[l] = products.iter().sum::<f64>() as f32;
    }
    for (c, row) in values.chunks_exact_mut(width).enumerate() {
        let sign = if matches!(c % GROUP, 3 | 4) { -1.0 } else { 1.0 };
        for (l, w) in row.iter_mut().enumerate() {
            *w = sign * columns[l * (depth + GROUP) + c];
        }
    }
}

/// The power of two near the root of a mean square, clamped so that products stay within f32.
fn near_root(mean_square: f32) -> f32 {
    let exponent = (mean_square.to_bits() >> 23) as i32 - 127;
    f32::from_bits(((127 + exponent.div_euclid(2).clamp(-60, 60)) as u32) << 23)
}

/// Packed pixels, `[tile][block][pixel of the tile][ROW]`.
#[derive(Default)]
struct Copies {
    /// The job they belong to, and the first pixel.
    of: (u64, usize),
    values: AlignedBuffer,
    /// The powers of two that pixels were divided by.
    scales: Vec<f32>,
    /// The corrections of their sums.
    corrections: Vec<f32>,
}

thread_local! {
    /// Reused between calls; a few hundred KB at batch 1, growing with the pixels per task. Tasks with the same pixels follow
    /// each other on a thread.
    static COPIES: RefCell<Copies> = RefCell::default();
}

/// The number of the next job. Numbers start at 1; new copies belong to job 0.
static JOBS: AtomicU64 = AtomicU64::new(1);

/// Computes all output pixels of a job.
pub fn convolve(packed: &PackedPanels, team: &ThreadTeam, sources: PixelSources, job: ConvJob) {
    packed.check(&job);
    sources.check(&job, 1, packed.reach());
    let ConvJob { src, residual, epilogue, count, out, out_stride, ahead, .. } = job;
    let number = JOBS.fetch_add(1, Ordering::Relaxed);
    let out = &SharedSlice::new(out);
    let split = Split::between(count, TILE, packed.list.len(), team.threads());
    team.for_each(split.tasks(), |i| {
        let (pixels, panels) = split.get(i);
        let steps = pixels.len().div_ceil(TILE) * groups(packed).div_ceil(STEP);
        let plan = packed.prefetch_plan((i, split.tasks()), |task| split.get(task).1, steps, ahead);
        COPIES.with_borrow_mut(|copies| {
            let of = (number, pixels.start);
            let least = epilogue.least;
            let mut task =
                ProductTask { packed, pixels, src, sources, copies, residual, least, out, out_stride, plan };
            if task.copies.of != of {
                task.copy();
                task.copies.of = of;
            }
            for panel in &packed.list[panels] {
                task.panel(panel);
            }
        });
    });
}

/// Groups per pixel.
fn groups(packed: &PackedPanels) -> usize {
    packed.list[0].depth.div_ceil(GROUP)
}

/// The part of a convolution that one thread computes at a time: some pixels times some panels.
struct ProductTask<'a> {
    packed: &'a PackedPanels,
    pixels: Range<usize>,
    src: PixelView<'a>,
    sources: PixelSources<'a>,
    copies: &'a mut Copies,
    residual: Option<PixelView<'a>>,
    least: f32,
    out: &'a SharedSlice<'a, f32>,
    out_stride: usize,
    plan: PrefetchPlan,
}

impl ProductTask<'_> {
    fn copy(&mut self) {
        let (pixels, tile) = (self.pixels.len(), self.tile_size());
        let len = pixels.div_ceil(TILE) * tile;
        self.copies.values.grow(len);
        if self.copies.scales.len() < pixels {
            self.copies.scales.resize(pixels, 0.0);
            self.copies.corrections.resize(pixels, 0.0);
        }
        self.packed.precision.dispatch(PackPixels(self));
    }

    /// Elements of a tile's packed pixels.
    fn tile_size(&self) -> usize {
        self.packed.list[0].depth.div_ceil(BLOCK) * TILE * ROW
    }

    /// Where a packed pixel begins; pixels are counted from the task's first.
    #[inline(always)]
    fn place(&self, pixel: usize) -> usize {
        pixel / TILE * self.tile_size() + pixel % TILE * ROW
    }

    fn panel(&self, panel: &Panel) {
        let precision = self.packed.precision;
        let (_, most) = precision.tile();
        let mut first = 0;
        for tile in [TILE, 4, 1].into_iter().filter(|&tile| tile <= most) {
            let pixels = first..first + (self.pixels.len() - first) / tile * tile;
            first = pixels.end;
            let strip = ProductStrip { task: self, panel, pixels };
            match tile {
                TILE => precision.dispatch(ProductTiles::<TILE>(strip)),
                4 => precision.dispatch(ProductTiles::<4>(strip)),
                _ => precision.dispatch(ProductTiles::<1>(strip)),
            }
        }
    }
}

/// Packs a task's pixels.
struct PackPixels<'a, 'b>(&'a mut ProductTask<'b>);

impl DotKernel for PackPixels<'_, '_> {
    #[inline(always)]
    unsafe fn with_dot<W: DotProduct>(self) {
        if const { !is_f32_of_avx512::<W>() } {
            unreachable!("`supports` accepts f32 by AVX-512 alone");
        }
        let PackPixels(task) = self;
        let (count, depth, lanes) = (task.pixels.len(), task.packed.list[0].depth, W::S::LANES);
        // Every vector of a block starts at one of these.
        let factors: [f32; GROUP + MAX_LANES] = std::array::from_fn(|i| TAKEN_OFF[i % GROUP]);
        let mut parts = [0f32; MAX_LANES];
        // Tile by tile: reading a vector right after it was written would stall.
        for tile in (0..count).step_by(TILE) {
            let pixels = tile..count.min(tile + TILE);
            for pixel in pixels.clone() {
                let at = match task.sources {
                    PixelSources::Same => (task.pixels.start + pixel) * task.src.stride,
                    PixelSources::Table(table) => table.offsets[task.pixels.start + pixel] as usize,
                };
                let (from, place) = (&task.src.data[at..at + depth], task.place(pixel));
                // SAFETY: the CPU has W's instructions; a pixel has whole multiples of SIDE_BY_SIDE vectors, and its copy has
                // room for them.
                unsafe {
                    let mut squares = [W::S::zero(); SIDE_BY_SIDE];
                    for c in (0..depth).step_by(SIDE_BY_SIDE * lanes) {
                        for side in 0..SIDE_BY_SIDE {
                            let x = W::S::load(from.as_ptr().add(c + side * lanes));
                            squares[side] = W::S::fma(x, x, squares[side]);
                        }
                    }
                    for side in 1..SIDE_BY_SIDE {
                        squares[0] = W::S::add(squares[0], squares[side]);
                    }
                    W::S::store(parts.as_mut_ptr(), squares[0]);
                    let scale = near_root(parts[..lanes].iter().sum::<f32>() / depth as f32);
                    task.copies.scales[pixel] = scale;
                    let inverse = W::S::splat(&(1.0 / scale));
                    for (block, from) in from.chunks(BLOCK).enumerate() {
                        let to = task.copies.values[place + block * TILE * ROW..][..ROW].as_mut_ptr();
                        for c in (0..from.len()).step_by(lanes) {
                            let x = W::S::load(from.as_ptr().add(c));
                            W::S::store(to.add(c), W::S::fma(x, inverse, W::S::zero()));
                        }
                        for c in (0..MAX_LANES).step_by(lanes) {
                            W::S::store(to.add(from.len() + c), W::S::zero());
                        }
                    }
                }
            }
            for pixel in pixels {
                let place = task.place(pixel);
                // SAFETY: as above; one more vector follows each block.
                unsafe {
                    let mut sums = W::S::zero();
                    for first in (0..depth).step_by(BLOCK) {
                        let copy = task.copies.values[place + first / BLOCK * TILE * ROW..][..ROW].as_ptr();
                        for c in (0..BLOCK.min(depth - first)).step_by(lanes) {
                            let (x, next) = (W::S::load(copy.add(c)), W::S::load(copy.add(c + 1)));
                            let factor = W::S::load(factors.as_ptr().add(c % GROUP));
                            sums = W::S::fma(W::S::fma(x, factor, W::S::zero()), next, sums);
                        }
                    }
                    W::S::store(parts.as_mut_ptr(), sums);
                }
                task.copies.corrections[pixel] = parts[..lanes].iter().sum();
            }
        }
    }
}

/// The pixels of several tiles, to be multiplied with one panel.
struct ProductStrip<'a> {
    task: &'a ProductTask<'a>,
    panel: &'a Panel,
    /// The pixels, counted from the task's first.
    pixels: Range<usize>,
}

struct ProductTiles<'a, const M: usize>(ProductStrip<'a>);

impl<const M: usize> DotKernel for ProductTiles<'_, M> {
    #[inline(always)]
    unsafe fn with_dot<W: DotProduct>(self) {
        if const { !is_f32_of_avx512::<W>() } {
            unreachable!("`supports` accepts f32 by AVX-512 alone");
        }
        let ProductStrip { task, panel, pixels } = &self.0;
        let (lanes, groups) = (W::S::LANES, groups(task.packed));
        let weights = &task.packed.weights[panel.weights.clone()][..groups * GROUP * 2 * lanes];
        let constants = &task.packed.bias[panel.bias.clone()][..6 * lanes];
        for first in pixels.clone().step_by(M) {
            let x = task.copies.values[task.place(first)..].as_ptr();
            let corrections = &task.copies.corrections[first..first + M];
            // SAFETY: the CPU has W's instructions; copies and weights have that many groups.
            unsafe {
                let mut sums = [[W::S::zero(); 2]; M];
                for v in 0..2 {
                    let own = W::S::load(constants.as_ptr().add((4 + v) * lanes));
                    for m in 0..M {
                        sums[m][v] = W::S::add(own, W::S::splat(&corrections[m]));
                    }
                }
                let mut w = weights.as_ptr();
                let mut fetch = task.plan.take(groups.div_ceil(STEP));
                let each = M.div_ceil(groups.div_ceil(STEP));
                let out = (task.out.as_ptr(), task.out_stride);
                let pixel = task.pixels.start + first;
                let mut outputs = Outputs::new(out, task.residual, (pixel, panel.dst_channel), M);
                for step in (0..groups).step_by(STEP) {
                    fetch.step(1, CacheLevel::Second);
                    outputs.prefetch(each, 2 * lanes);
                    let channel = step * GROUP;
                    let x = x.wrapping_add(channel / BLOCK * TILE * ROW + channel % BLOCK);
                    // One pointer per vector of weights, which the compiler must not know to be equal: it would share one
                    // broadcast between two instructions, and a separate broadcast takes the port of an addition.
                    let mut x = [x, black_box(x)];
                    for _ in step..groups.min(step + STEP) {
                        pair::<W, M, false>(&mut sums, x, w);
                        alone::<W, M>(&mut sums, x.map(|x| x.add(2)), w.add(4 * lanes));
                        pair::<W, M, true>(&mut sums, x.map(|x| x.add(3)), w.add(6 * lanes));
                        alone::<W, M>(&mut sums, x.map(|x| x.add(5)), w.add(10 * lanes));
                        x = x.map(|x| x.add(GROUP));
                        w = w.add(GROUP * 2 * lanes);
                    }
                }
                self.finish::<W>(first, &sums, constants);
            }
        }
    }
}

/// Adds or subtracts the product of two channels, each plus the other's weight.
///
/// # Safety
/// The CPU has W's instructions; there are M rows of two channels, and four vectors of weights.
#[inline(always)]
unsafe fn pair<W: DotProduct, const M: usize, const SUBTRACTED: bool>(
    sums: &mut [[V<W>; 2]; M],
    x: [*const f32; 2],
    weights: *const f32,
) {
    // SAFETY: the function's contract.
    unsafe {
        // One output vector at a time; registers hold the weights of only one.
        for v in 0..2 {
            let [first, second] = [0, 1].map(|c| weights.add((2 * c + v) * W::S::LANES));
            let (first, second) = (W::S::load(first), W::S::load(second));
            for m in 0..M {
                let x = x[v].add(m * ROW);
                let one = W::S::add(second, W::S::splat(x));
                let other = W::S::add(first, W::S::splat(x.add(1)));
                sums[m][v] = match SUBTRACTED {
                    false => W::S::fma(one, other, sums[m][v]),
                    true => W::S::fnma(one, other, sums[m][v]),
                };
            }
        }
    }
}

/// Adds the products of a single channel.
///
/// # Safety
/// The CPU has W's instructions; there are M rows of a channel, and two vectors of weights.
#[inline(always)]
unsafe fn alone<W: DotProduct, const M: usize>(
    sums: &mut [[V<W>; 2]; M],
    x: [*const f32; 2],
    weights: *const f32,
) {
    // SAFETY: the function's contract.
    unsafe {
        for v in 0..2 {
            let w = W::S::load(weights.add(v * W::S::LANES));
            for m in 0..M {
                sums[m][v] = W::S::fma(W::S::splat(x[v].add(m * ROW)), w, sums[m][v]);
            }
        }
    }
}

impl<const M: usize> ProductTiles<'_, M> {
    /// Scales the sums of the pixels from `first` on back, adds bias and residual, applies ReLU and stores.
    ///
    /// # Safety
    /// The CPU has W's instructions, the pixels exist, and no other thread writes their panel.
    #[inline(always)]
    unsafe fn finish<W: DotProduct>(&self, first: usize, sums: &[[V<W>; 2]; M], constants: &[f32]) {
        let ProductStrip { task, panel, .. } = &self.0;
        let (lanes, pixel) = (W::S::LANES, task.pixels.start + first);
        let len = (M - 1) * task.out_stride + panel.width;
        let out = task.out.pointer(pixel * task.out_stride + panel.dst_channel, len);
        let residual =
            task.residual.map(|r| (r.data[pixel * r.stride + panel.dst_channel..].as_ptr(), r.stride));
        let scales = &task.copies.scales[first..first + M];
        // SAFETY: `convolve` checked output and residual; there are as many constants as `fill` wrote.
        unsafe {
            let least = W::S::splat(&task.least);
            for v in 0..2 {
                let bias = W::S::load(constants.as_ptr().add(v * lanes));
                let own = W::S::load(constants.as_ptr().add((2 + v) * lanes));
                for m in 0..M {
                    let scale = W::S::fma(own, W::S::splat(&scales[m]), W::S::zero());
                    let mut y = W::S::fma(sums[m][v], scale, bias);
                    if let Some((residual, stride)) = residual {
                        y = W::S::add(y, W::S::load(residual.add(m * stride + v * lanes)));
                    }
                    W::S::store(out.add(m * task.out_stride + v * lanes), W::S::max(y, least));
                }
            }
        }
    }
}
