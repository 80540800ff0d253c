//! Grouped convolutions in f32 with AVX2 whose kernels have three columns: rows of output pixels over copied source rows.
//!
//! A task copies the source rows that it reads, one vector of channels at a time, so that a row's pixels follow each other
//! with the padding beside them: a tile then reads them at constant distances from one pointer. A source pixel is read once
//! per kernel row and channel, and serves the three output pixels whose kernels reach it. Where a vector holds two groups of
//! four channels, a shuffle within each half of it takes the place of the broadcast. Every sum adds its products in the order
//! of the direct kernel: both give the same bits.

use super::direct;
use super::job::{ConvJob, PixelSources, PixelView, RowLayout};
use super::packed::{DirectWeights, Filter, Panel};
use super::precision::Precision;
use super::prefetch_plan::{Outputs, PrefetchPlan};
use super::source_rows::SourceRows;
use crate::memory::prefetch::{CacheLevel, prefetch};
use crate::memory::scratch::Scratch;
use crate::row3::fma_row3;
use crate::simd::dispatch::{Isa, dispatch};
use crate::simd::traits::{Kernel, Simd};
use crate::threads::shared_slice::SharedSlice;
use crate::threads::split::Split;
use crate::threads::team::ThreadTeam;
use std::ops::Range;

/// Elements per vector of AVX2.
const LANES: usize = 8;

/// Channels per group where a vector holds two groups.
const FOUR: usize = 4;

/// Vectors of channels that are copied together, if a group has no more: those of a cache line.
const LINE: usize = 2;

/// Source pixels from the one that is copied to the one that is prefetched, more than the third-level cache takes to answer.
const DISTANCE: usize = 24;

/// Whether this kernel computes a convolution.
pub fn suits(precision: Precision, filter: &Filter) -> bool {
    let Filter { groups, columns, group_in, group_out, .. } = *filter;
    precision == Precision::F32(Isa::Avx2)
        && columns == 3
        && group_in == group_out
        && (groups * group_in).is_multiple_of(LANES)
        && (group_in == FOUR || group_in.is_multiple_of(LANES))
}

/// Packs a filter, as the direct kernel does: `[kernel row][channel of the group][column][LANES]`.
pub fn pack(precision: Precision, filter: &Filter) -> DirectWeights {
    direct::pack(precision, filter)
}

/// Computes all output pixels of a job.
pub fn convolve(weights: &DirectWeights, team: &ThreadTeam, sources: PixelSources, job: ConvJob) {
    let DirectWeights { panels: packed, taps, .. } = weights;
    packed.check(&job);
    sources.check(&job, *taps, packed.reach());
    let PixelSources::Table(table) = sources else { panic!("a kernel of three columns reads a table") };
    let Some(layout) = table.row else { panic!("this kernel computes rows") };
    let RowLayout { width, stride } = layout;
    assert!(width > 0 && matches!(stride, 1 | 2) && job.count.is_multiple_of(width));
    if job.count == 0 {
        return;
    }
    let (kernel_rows, rows) = (taps / 3, job.count / width);
    let found = || SourceRows::new(&table.offsets, width, stride, kernel_rows);
    let source_rows = table.source_rows.get_or_init(found);
    assert_eq!(
        source_rows.sizes(),
        (rows, kernel_rows, (width - 1) * stride + 3),
        "a table of another convolution"
    );
    assert!(job.src.data.len() >= source_rows.farthest() + packed.reach());
    let ConvJob { src, residual, epilogue, out, out_stride, ahead, .. } = job;
    let out = &SharedSlice::new(out);
    // Panels of one group read the same source vectors, and neighbouring narrow groups the same cache lines.
    let depth = packed.list.first().map_or(FOUR, |panel| panel.depth);
    let vectors = match (depth / LANES).max(1) {
        1 if packed.list.len().is_multiple_of(LINE) => LINE,
        vectors => vectors,
    };
    // Blocks of seven rows: the more rows, the fewer source rows are copied by two tasks.
    let split = Split::between(rows, 1, packed.list.len() / vectors, team.threads());
    team.for_each(split.tasks(), |task| {
        let (rows, units) = split.get(task);
        let panels = |task: usize| {
            let (_, units) = split.get(task);
            units.start * vectors..units.end * vectors
        };
        let plan = packed.prefetch_plan((task, split.tasks()), panels, rows.len() * kernel_rows, ahead);
        let task = GroupedTask {
            weights,
            src,
            residual,
            least: epilogue.least,
            copied: source_rows.range(&rows),
            rows,
            width,
            stride,
            source_rows,
            out,
            out_stride,
            plan,
        };
        let mut scratch = Scratch::<f32>::default();
        for unit in units {
            task.compute(&packed.list[unit * vectors..(unit + 1) * vectors], &mut scratch);
        }
    });
}

/// The part of a convolution that one thread computes at a time: some output rows times some groups.
struct GroupedTask<'a> {
    weights: &'a DirectWeights,
    src: PixelView<'a>,
    residual: Option<PixelView<'a>>,
    least: f32,
    rows: Range<usize>,
    /// Output pixels per row.
    width: usize,
    stride: usize,
    source_rows: &'a SourceRows,
    /// The source rows that are copied.
    copied: Range<usize>,
    out: &'a SharedSlice<'a, f32>,
    out_stride: usize,
    plan: PrefetchPlan,
}

impl GroupedTask<'_> {
    /// Pixels that are copied.
    fn size(&self) -> usize {
        self.copied.len() * self.source_rows.places()
    }

    /// Computes neighbouring panels, which read and write as many vectors of each pixel as there are panels.
    fn compute(&self, panels: &[Panel], scratch: &mut Scratch<f32>) {
        let copies = scratch.get(panels.len() * self.size() * LANES);
        dispatch(Isa::Avx2, CopyRows { task: self, panels, copies });
        // Each instruction waits for the one before it on the same sum, so a tile of fewer than eight sums takes as long as
        // one of eight.
        let sizes = [8, 7, 4, 2].into_iter().filter(|&size| size <= self.width);
        let size = sizes.min_by_key(|size| self.width.div_ceil(*size) * 8);
        for (i, panel) in panels.iter().enumerate() {
            // The panels of a group read all of its vectors.
            let vectors = (panel.depth / LANES).max(1);
            let copies = &copies[i / vectors * vectors * self.size() * LANES..];
            match (size, self.stride) {
                (Some(8), 1) => self.tiles::<8, 1>(panel, copies),
                (Some(8), _) => self.tiles::<8, 2>(panel, copies),
                (Some(7), 1) => self.tiles::<7, 1>(panel, copies),
                (Some(7), _) => self.tiles::<7, 2>(panel, copies),
                (Some(4), 1) => self.tiles::<4, 1>(panel, copies),
                (Some(4), _) => self.tiles::<4, 2>(panel, copies),
                (Some(_), 1) => self.tiles::<2, 1>(panel, copies),
                (Some(_), _) => self.tiles::<2, 2>(panel, copies),
                (None, _) => self.tiles::<1, 1>(panel, copies),
            }
        }
    }

    fn tiles<const M: usize, const STRIDE: usize>(&self, panel: &Panel, copies: &[f32]) {
        match panel.spanning {
            true => dispatch(Isa::Avx2, RowTiles::<M, STRIDE, true> { task: self, panel, copies }),
            false => dispatch(Isa::Avx2, RowTiles::<M, STRIDE, false> { task: self, panel, copies }),
        }
    }
}

/// Whether kernels are compiled for `S`: [`suits`] takes AVX2 alone.
const fn is_avx2<S: Simd>() -> bool {
    S::TILE == 6 && S::LANES == LANES
}

/// Copies the source rows' vectors that some panels read: `[vector][copied row][place][LANES]`. The lines that the panels
/// write are prefetched meanwhile.
struct CopyRows<'a, 'b> {
    task: &'a GroupedTask<'b>,
    panels: &'a [Panel],
    copies: &'a mut [f32],
}

impl Kernel<f32> for CopyRows<'_, '_> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = f32>>(self) {
        if const { !is_avx2::<S>() } {
            unreachable!("`suits` takes AVX2 alone");
        }
        let CopyRows { task, panels, copies } = self;
        let (offsets, vectors) = (task.source_rows.offsets(&task.copied), panels.len());
        assert!(copies.len() >= vectors * offsets.len() * LANES);
        let from = task.src.data[panels[0].src_word..].as_ptr();
        let out = (task.out.as_ptr(), task.out_stride);
        let (first, count) = (task.rows.start * task.width, task.rows.len() * task.width);
        let mut outputs = Outputs::new(out, task.residual, (first, panels[0].dst_channel), count);
        for (i, &offset) in offsets.iter().enumerate() {
            let later = offsets[(i + DISTANCE).min(offsets.len() - 1)];
            for line in (0..vectors).step_by(LINE) {
                prefetch(from.wrapping_add(later as usize + line * LANES), CacheLevel::First);
            }
            outputs.prefetch(1, vectors * LANES);
            for vector in 0..vectors {
                // SAFETY: the CPU has S's instructions; `convolve` checked the farthest pixel, and there is room for all of them.
                unsafe {
                    let vector_of_pixel = S::load(from.add(offset as usize + vector * LANES));
                    S::store(copies.as_mut_ptr().add((vector * offsets.len() + i) * LANES), vector_of_pixel);
                }
            }
        }
    }
}

/// Tiles of `M` neighbours of an output row, `STRIDE` source pixels apart, times one vector of output channels; `FOURS` if it
/// holds two groups of four channels.
struct RowTiles<'a, 'b, const M: usize, const STRIDE: usize, const FOURS: bool> {
    task: &'a GroupedTask<'b>,
    panel: &'a Panel,
    copies: &'a [f32],
}

impl<const M: usize, const STRIDE: usize, const FOURS: bool> Kernel<f32>
    for RowTiles<'_, '_, M, STRIDE, FOURS>
{
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = f32>>(self) {
        if const { !is_avx2::<S>() } {
            unreachable!("`suits` takes AVX2 alone");
        }
        let RowTiles { task, panel, copies } = self;
        let (width, places) = (task.width, task.source_rows.places());
        let packed = &task.weights.panels;
        let vectors = if FOURS { 1 } else { panel.depth / LANES };
        let size = task.size() * LANES;
        assert!(copies.len() >= vectors * size && M <= width);
        let kernel_rows = task.weights.taps / 3;
        let weights = packed.weights[panel.weights.clone()][..kernel_rows * panel.depth * 3 * LANES].as_ptr();
        let bias = packed.bias[panel.bias.clone()][..LANES].as_ptr();
        for y in task.rows.clone() {
            let reads = task.source_rows.reads(y);
            let mut fetch = task.plan.take(kernel_rows);
            fetch.step(kernel_rows, CacheLevel::Second);
            for x in (0..width).step_by(M) {
                // The last tile starts early enough to be whole; what it computes twice has the same bits.
                let x = x.min(width - M);
                let pixel = y * width + x;
                // SAFETY: the CPU has S's instructions; copies, weights and bias are as long as asserted; `convolve` checked
                // output and residual.
                unsafe {
                    let mut acc = [S::load(bias); M];
                    let mut weights = weights;
                    for &read in reads {
                        let place = (read - task.copied.start) * places + x * STRIDE;
                        let mut row = copies.as_ptr().add(place * LANES);
                        for _ in 0..vectors {
                            if FOURS {
                                channel::<S, M, STRIDE, 0>(&mut acc, row, weights);
                                channel::<S, M, STRIDE, 1>(&mut acc, row, weights.add(3 * LANES));
                                channel::<S, M, STRIDE, 2>(&mut acc, row, weights.add(6 * LANES));
                                channel::<S, M, STRIDE, 3>(&mut acc, row, weights.add(9 * LANES));
                                weights = weights.add(12 * LANES);
                            } else {
                                let mut sums = acc;
                                for c in 0..LANES {
                                    let mut w = [S::zero(); 3];
                                    for column in 0..3 {
                                        w[column] = S::load(weights.add(column * LANES));
                                    }
                                    weights = weights.add(3 * LANES);
                                    fma_row3!(M, STRIDE, S::fma, sums, w, |j| S::splat(
                                        row.add(j * LANES + c)
                                    ));
                                }
                                acc = sums;
                            }
                            row = row.add(size);
                        }
                    }
                    let len = (M - 1) * task.out_stride + LANES;
                    let out = task.out.pointer(pixel * task.out_stride + panel.dst_channel, len);
                    let residual = task.residual.map(|r| {
                        (r.data.as_ptr().wrapping_add(pixel * r.stride + panel.dst_channel), r.stride)
                    });
                    let least = S::splat(&task.least);
                    for m in 0..M {
                        let mut y = acc[m];
                        if let Some((residual, stride)) = residual {
                            y = S::add(y, S::load(residual.add(m * stride)));
                        }
                        S::store(out.add(m * task.out_stride), S::max(y, least));
                    }
                }
            }
        }
    }
}

/// Accumulates the products of channel `C` of both groups of a vector, in one kernel row.
///
/// # Safety
/// The CPU has `S`'s instructions; there are three vectors of weights, and the tile's source pixels.
#[inline(always)]
unsafe fn channel<S: Simd<T = f32>, const M: usize, const STRIDE: usize, const C: usize>(
    acc: &mut [S::V; M],
    row: *const f32,
    weights: *const f32,
) {
    // A local copy is kept in registers.
    let mut sums = *acc;
    // SAFETY: the function's contract.
    unsafe {
        let mut w = [S::zero(); 3];
        for column in 0..3 {
            w[column] = S::load(weights.add(column * LANES));
        }
        fma_row3!(M, STRIDE, S::fma, sums, w, |j| S::load_fours::<C>(row.add(j * LANES)));
    }
    *acc = sums;
}
