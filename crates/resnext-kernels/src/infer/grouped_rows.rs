//! Grouped convolutions with AVX2 whose kernels have three columns, in f32 and int8: rows of output pixels over copied source
//! rows.
//!
//! A task copies the source rows that it reads, one vector of channels at a time, so that a row's pixels follow each other
//! with the padding beside them: a tile then reads them at constant distances from one pointer. A source pixel is read once
//! per kernel row and channel, and serves the three output pixels whose kernels reach it. Where a vector holds two groups of
//! four channels, a shuffle within each half of it takes the place of the broadcast. Every sum adds its products in the order
//! of the direct kernel: both give the same bits. In int8, four channels are one word.

use super::direct;
use super::dot_product::{DotProduct, V};
use super::finish::Finish;
use super::job::{ConvJob, Epilogue, PixelSources, PixelView, RowLayout};
use super::packed::{DirectWeights, Filter, Panel};
use super::precision::{DotKernel, Precision, bytes, bytes_mut};
use super::prefetch_plan::{Outputs, PrefetchPlan};
use super::source_rows::SourceRows;
use crate::memory::prefetch::{CacheLevel, prefetch};
use crate::memory::scratch::Scratch;
use crate::row3::fma_row3;
use crate::simd::dispatch::Isa;
use crate::simd::traits::Simd;
use crate::threads::shared_slice::SharedSlice;
use crate::threads::split::Split;
use crate::threads::team::ThreadTeam;
use std::ops::Range;

/// Elements per vector of AVX2.
const LANES: usize = 8;

/// Channels per group where a vector holds two groups.
const FOUR: usize = 4;

/// Panels that are computed together, if a group has no more: those whose channels fill a cache line.
const LINE: usize = 2;
const INT8_LINE: usize = 8;

/// Source pixels from the one that is copied to the one that is prefetched, more than the third-level cache takes to answer.
const DISTANCE: usize = 24;

/// Whether this kernel supports a convolution.
pub fn supports(precision: Precision, filter: &Filter) -> bool {
    let Filter { groups, columns, group_in, group_out, .. } = *filter;
    let widest = match precision {
        Precision::F32(Isa::Avx2) => usize::MAX,
        Precision::Int8(Isa::Avx2) => INT8_LINE * LANES,
        _ => return false,
    };
    // A vector is copied whole, and groups do not span two.
    let vector = LANES * precision.channels();
    let divides = group_in.is_multiple_of(FOUR) && vector.is_multiple_of(group_in);
    columns == 3
        && group_in == group_out
        && group_in <= widest
        && (groups * group_in).is_multiple_of(vector)
        && (divides || group_in.is_multiple_of(vector))
}

/// Packs a filter, as the direct kernel does: `[kernel row][word of the group][column][LANES]`.
pub fn pack(precision: Precision, filter: &Filter) -> DirectWeights {
    direct::pack_columns(precision, filter)
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
    let out = &SharedSlice::new(bytes_mut(out));
    // Panels of one group read the same source vectors, and neighbouring narrow groups the same cache lines.
    let words = packed.list.first().map_or(0, |panel| panel.depth);
    let line = if matches!(packed.precision, Precision::Int8(_)) { INT8_LINE } else { LINE };
    // The panels of a vector of words, or of a group that has more.
    let of_group = packed.precision.channels() * (words / LANES).max(1);
    let together = match packed.list.len().is_multiple_of(line) && line.is_multiple_of(of_group) {
        true => line,
        false => of_group,
    };
    // Blocks of seven rows: the more rows, the fewer source rows are copied by two tasks.
    let split = Split::between(rows, 1, packed.list.len() / together, team.threads());
    team.for_each(split.tasks(), |task| {
        let (rows, units) = split.get(task);
        let panels = |task: usize| {
            let (_, units) = split.get(task);
            units.start * together..units.end * together
        };
        let plan = packed.prefetch_plan((task, split.tasks()), panels, rows.len() * kernel_rows, ahead);
        let task = GroupedTask {
            weights,
            words,
            src,
            residual,
            epilogue,
            copied: source_rows.range(&rows),
            rows,
            width,
            stride,
            source_rows,
            out,
            out_stride,
            plan,
        };
        let mut scratch = <(Scratch<f32>, Scratch<f32>)>::default();
        for unit in units {
            task.compute(&packed.list[unit * together..(unit + 1) * together], &mut scratch);
        }
    });
}

/// The part of a convolution that one thread computes at a time: some output rows times some groups.
struct GroupedTask<'a> {
    weights: &'a DirectWeights,
    /// Words of a source pixel that an output channel sums over.
    words: usize,
    src: PixelView<'a>,
    residual: Option<PixelView<'a>>,
    epilogue: Epilogue,
    rows: Range<usize>,
    /// Output pixels per row.
    width: usize,
    stride: usize,
    source_rows: &'a SourceRows,
    /// The source rows that are copied.
    copied: Range<usize>,
    out: &'a SharedSlice<'a, u8>,
    /// The number of words from one output pixel to the next.
    out_stride: usize,
    plan: PrefetchPlan,
}

impl GroupedTask<'_> {
    fn precision(&self) -> Precision {
        self.weights.panels.precision
    }

    /// Pixels that are copied.
    fn size(&self) -> usize {
        self.copied.len() * self.source_rows.places()
    }

    /// Computes neighbouring panels, which read and write the same channels of each pixel.
    fn compute(&self, panels: &[Panel], (copies, wide): &mut (Scratch<f32>, Scratch<f32>)) {
        let per_word = self.precision().channels();
        let vectors = panels.len() / per_word;
        let copies = copies.get(vectors * self.size() * LANES);
        self.precision().dispatch(CopyRows { task: self, panels, vectors, copies });
        // Each instruction waits for the one before it on the same sum, so a tile of fewer than eight sums takes as long as
        // one of eight.
        let sizes = [8, 7, 4, 2].into_iter().filter(|&size| size <= self.width);
        let size = sizes.min_by_key(|size| self.width.div_ceil(*size) * 8);
        for (i, panel) in panels.iter().enumerate() {
            let weights = self.weights.panels.widened(panel.weights.clone(), wide);
            // The panel's first group of those that are copied. The panels of a group read all of its words.
            let group = i * LANES / (self.words * per_word);
            let (vector, first) = (group * self.words / LANES, group * self.words % LANES);
            let copies = &copies[vector * self.size() * LANES..];
            let panel = PanelOfCopies { task: self, panel, weights, copies, first };
            match (size, self.stride) {
                (Some(8), 1) => panel.tiles::<8, 1>(),
                (Some(8), _) => panel.tiles::<8, 2>(),
                (Some(7), 1) => panel.tiles::<7, 1>(),
                (Some(7), _) => panel.tiles::<7, 2>(),
                (Some(4), 1) => panel.tiles::<4, 1>(),
                (Some(4), _) => panel.tiles::<4, 2>(),
                (Some(_), 1) => panel.tiles::<2, 1>(),
                (Some(_), _) => panel.tiles::<2, 2>(),
                (None, _) => panel.tiles::<1, 1>(),
            }
        }
    }
}

/// A panel, its weights, and the copies that it reads.
struct PanelOfCopies<'a, 'b> {
    task: &'a GroupedTask<'b>,
    panel: &'a Panel,
    weights: &'a [f32],
    /// From the first vector on that the panel reads.
    copies: &'a [f32],
    /// The first word of this vector that it reads.
    first: usize,
}

impl PanelOfCopies<'_, '_> {
    fn tiles<const M: usize, const STRIDE: usize>(self) {
        let precision = self.task.precision();
        match (self.panel.spanning, self.first / 2) {
            (true, 0) => precision.dispatch(RowTiles::<M, STRIDE, 1>(self)),
            (true, 1) => precision.dispatch(RowTiles::<M, STRIDE, 2>(self)),
            (true, 2) => precision.dispatch(RowTiles::<M, STRIDE, 3>(self)),
            (true, _) => precision.dispatch(RowTiles::<M, STRIDE, 4>(self)),
            (false, _) => precision.dispatch(RowTiles::<M, STRIDE, 0>(self)),
        }
    }
}

/// Whether kernels are compiled for `S`: [`supports`] accepts AVX2 alone.
const fn is_avx2<S: Simd>() -> bool {
    S::TILE == 6 && S::LANES == LANES
}

/// Copies the source rows' vectors of words that some panels read: `[vector][copied row][place][LANES]`. The lines that the
/// panels write are prefetched meanwhile.
struct CopyRows<'a, 'b> {
    task: &'a GroupedTask<'b>,
    panels: &'a [Panel],
    vectors: usize,
    copies: &'a mut [f32],
}

impl DotKernel for CopyRows<'_, '_> {
    #[inline(always)]
    unsafe fn with_dot<W: DotProduct>(self) {
        if const { !is_avx2::<W::S>() } {
            unreachable!("`supports` accepts AVX2 alone");
        }
        let CopyRows { task, panels, vectors, copies } = self;
        let offsets = task.source_rows.offsets(&task.copied);
        assert!(copies.len() >= vectors * offsets.len() * LANES);
        // Bytes of memory per vector, and per cache line.
        let (per_vector, per_line) = (LANES * W::CHANNELS * W::BYTES, 64);
        let from = bytes(&task.src.data[panels[0].src_word..]).as_ptr();
        let out = (task.out.as_ptr().cast(), task.out_stride);
        let (first, count) = (task.rows.start * task.width, task.rows.len() * task.width);
        let mut outputs =
            Outputs::new(out, task.residual, (first, panels[0].dst_channel * W::BYTES / 4), count);
        let in_halves = panels[0].spanning;
        for (i, &offset) in offsets.iter().enumerate() {
            let later = from.wrapping_add(4 * offsets[(i + DISTANCE).min(offsets.len() - 1)] as usize);
            for line in (0..vectors * per_vector).step_by(per_line) {
                prefetch(later.wrapping_add(line), CacheLevel::First);
            }
            outputs.prefetch(1, panels.len() * LANES * W::BYTES / 4);
            for vector in 0..vectors {
                // SAFETY: the CPU has W's instructions; `convolve` checked the farthest pixel, and there is room for all of
                // them.
                unsafe {
                    let at = from.add(4 * offset as usize + vector * per_vector);
                    let words = if in_halves { W::words_in_halves(at) } else { W::words(at) };
                    W::S::store(copies.as_mut_ptr().add((vector * offsets.len() + i) * LANES), words);
                }
            }
        }
    }
}

/// Tiles of `M` neighbours of an output row, `STRIDE` source pixels apart, times one vector of output channels. `HALF_WORD`
/// is 0, unless the vector holds two groups of four channels. Then it says which words of a copied vector hold the groups: in
/// int8 it is the number of the word in each half of the vector, from 1 on; in f32 it is 1, as each half is one group.
struct RowTiles<'a, 'b, const M: usize, const STRIDE: usize, const HALF_WORD: usize>(PanelOfCopies<'a, 'b>);

impl<const M: usize, const STRIDE: usize, const HALF_WORD: usize> DotKernel
    for RowTiles<'_, '_, M, STRIDE, HALF_WORD>
{
    #[inline(always)]
    unsafe fn with_dot<W: DotProduct>(self) {
        if const { !is_avx2::<W::S>() || HALF_WORD > 1 && W::CHANNELS == 1 } {
            unreachable!("`supports` accepts AVX2 alone, where four channels of f32 are half a vector");
        }
        let RowTiles(PanelOfCopies { task, panel, weights, copies, first }) = self;
        let (width, places) = (task.width, task.source_rows.places());
        let packed = &task.weights.panels;
        // Vectors that are read, and words of each.
        let (vectors, each) = (task.words.div_ceil(LANES), task.words.min(LANES));
        let size = task.size() * LANES;
        assert!(copies.len() >= vectors * size && M <= width);
        assert!(first + each <= LANES && (HALF_WORD == 0 || task.words == FOUR / W::CHANNELS));
        let kernel_rows = task.weights.taps / 3;
        assert_eq!(weights.len(), kernel_rows * task.words * 3 * LANES);
        let constants = if W::SCALED { 2 } else { 1 };
        let bias = packed.bias[panel.bias.clone()][..constants * LANES].as_ptr();
        for y in task.rows.clone() {
            let reads = task.source_rows.reads(y);
            let mut fetch = task.plan.take(kernel_rows);
            fetch.step(kernel_rows, CacheLevel::Second);
            for x in (0..width).step_by(M) {
                // The last tile starts early enough to be whole; what it computes twice has the same bits.
                let x = x.min(width - M);
                let pixel = y * width + x;
                // SAFETY: the CPU has W's instructions; copies, weights and bias are as long as asserted; `convolve` checked
                // output and residual.
                unsafe {
                    let initial = if W::SCALED { W::S::zero() } else { W::S::load(bias) };
                    let mut acc: [V<W>; M] = [initial; M];
                    let mut weights = weights.as_ptr();
                    for &read in reads {
                        let place = (read - task.copied.start) * places + x * STRIDE;
                        let mut row = copies.as_ptr().add(place * LANES);
                        for _ in 0..vectors {
                            if HALF_WORD > 0 {
                                // All four words of f32, or the one of int8.
                                let all = W::CHANNELS == 1;
                                if all || HALF_WORD == 1 {
                                    dot_in_halves::<W, M, STRIDE, 0>(&mut acc, row, &mut weights);
                                }
                                if all || HALF_WORD == 2 {
                                    dot_in_halves::<W, M, STRIDE, 1>(&mut acc, row, &mut weights);
                                }
                                if all || HALF_WORD == 3 {
                                    dot_in_halves::<W, M, STRIDE, 2>(&mut acc, row, &mut weights);
                                }
                                if all || HALF_WORD == 4 {
                                    dot_in_halves::<W, M, STRIDE, 3>(&mut acc, row, &mut weights);
                                }
                            } else {
                                let mut sums = acc;
                                for c in first..first + each {
                                    let mut w = [W::S::zero(); 3];
                                    for column in 0..3 {
                                        w[column] = W::S::load(weights.add(column * LANES));
                                    }
                                    weights = weights.add(3 * LANES);
                                    fma_row3!(M, STRIDE, W::dot, sums, w, |j| W::S::splat(
                                        row.add(j * LANES + c)
                                    ));
                                }
                                acc = sums;
                            }
                            row = row.wrapping_add(size);
                        }
                    }
                    let at = |stride: usize| 4 * pixel * stride + panel.dst_channel * W::BYTES;
                    let len = 4 * (M - 1) * task.out_stride + LANES * W::BYTES;
                    let out = task.out.pointer(at(task.out_stride), len);
                    let residual = task.residual;
                    let residual = residual
                        .map(|r| (r.data.as_ptr().cast::<u8>().wrapping_add(at(r.stride)), 4 * r.stride));
                    let finish = Finish::<W>::new(&task.epilogue);
                    for m in 0..M {
                        let residual = residual.map(|(at, stride)| at.add(m * stride));
                        let outputs = finish.outputs(acc[m], bias, LANES, residual);
                        W::store(out.add(4 * m * task.out_stride), outputs);
                    }
                }
            }
        }
    }
}

/// Accumulates the products of word `AT` of each half of a vector, in one kernel row, and advances `weights` past the row's
/// weights.
///
/// # Safety
/// The CPU has `W`'s instructions; there are three vectors of weights, and the tile's source pixels.
#[inline(always)]
unsafe fn dot_in_halves<W: DotProduct, const M: usize, const STRIDE: usize, const AT: usize>(
    acc: &mut [V<W>; M],
    row: *const f32,
    weights: &mut *const f32,
) {
    // A local copy is kept in registers.
    let mut sums = *acc;
    // SAFETY: the function's contract.
    unsafe {
        let mut w = [W::S::zero(); 3];
        for column in 0..3 {
            w[column] = W::S::load(weights.add(column * LANES));
        }
        *weights = weights.add(3 * LANES);
        fma_row3!(M, STRIDE, W::dot, sums, w, |j| W::S::load_broadcast4::<AT>(row.add(j * LANES)));
    }
    *acc = sums;
}
