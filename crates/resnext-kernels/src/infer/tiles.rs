//! The direct kernel's register tiles: a few pixels times up to two vectors of output channels.
//!
//! Activations are read in place, with one broadcast per pixel and word. Where a group is narrower than a vector, the
//! vector spans several groups and the broadcast becomes a permute.

use super::dot_product::{DotProduct, V};
use super::finish::Finish;
use super::job::{Epilogue, PixelSources, PixelView, RowLayout};
use super::packed::{DirectWeights, Panel};
use super::precision::{DotKernel, Precision};
use super::prefetch_plan::{Outputs, PrefetchPlan, PrefetchRun};
use crate::memory::prefetch::CacheLevel;
use crate::row3::fma_row3;
use crate::simd::traits::{MAX_LANES, Simd};
use crate::threads::shared_slice::SharedSlice;
use std::ops::Range;

/// Source words between two prefetches.
pub const STEP: usize = 16;

/// The part of a convolution that one thread computes at a time: some pixels times some panels.
pub struct DirectTask<'a> {
    pub weights: &'a DirectWeights,
    pub src: PixelView<'a>,
    pub sources: PixelSources<'a>,
    pub row: Option<RowLayout>,
    pub residual: Option<PixelView<'a>>,
    pub epilogue: Epilogue,
    pub pixels: Range<usize>,
    pub panels: &'a [Panel],
    pub out: &'a SharedSlice<'a, u8>,
    /// The number of words from one output pixel to the next.
    pub out_stride: usize,
    pub plan: PrefetchPlan,
}

/// The pixels of several tiles, to be multiplied with one panel.
pub struct Strip<'a> {
    pub task: &'a DirectTask<'a>,
    pub panel: &'a Panel,
    pub pixels: Range<usize>,
    /// The panel's weights.
    pub values: &'a [f32],
}

impl Strip<'_> {
    /// Computes the strip in tiles of `M` pixels. Each kind of tile is a function of its own: only then do all its sums stay
    /// in registers.
    pub fn compute_tiles<const M: usize>(&self, precision: Precision) {
        match (self.panel.spanning, self.panel.vectors) {
            (true, _) => precision.dispatch(Spanning::<M>(self)),
            (false, 1) => precision.dispatch(Dense::<M, 1>(self)),
            (false, _) => precision.dispatch(Dense::<M, 2>(self)),
        }
    }

    /// Computes the strip, whole rows of at least `M` pixels, in tiles of `M` neighbours in a row or two ([`rows_at_once`]).
    pub fn compute_rows<const M: usize>(&self, precision: Precision, row: RowLayout) {
        let RowLayout { width, stride } = row;
        let depth = if self.panel.spanning { self.panel.depth } else { 0 };
        match (depth, stride) {
            (1, 1) => precision.dispatch(Neighbours::<M, 1, 1> { strip: self, width }),
            (1, _) => precision.dispatch(Neighbours::<M, 1, 2> { strip: self, width }),
            (2, 1) => precision.dispatch(Neighbours::<M, 2, 1> { strip: self, width }),
            (2, _) => precision.dispatch(Neighbours::<M, 2, 2> { strip: self, width }),
            (4, 1) => precision.dispatch(Neighbours::<M, 4, 1> { strip: self, width }),
            (4, _) => precision.dispatch(Neighbours::<M, 4, 2> { strip: self, width }),
            (8, 1) => precision.dispatch(Neighbours::<M, 8, 1> { strip: self, width }),
            (8, _) => precision.dispatch(Neighbours::<M, 8, 2> { strip: self, width }),
            (0, 1) => precision.dispatch(Neighbours::<M, 0, 1> { strip: self, width }),
            (0, _) => precision.dispatch(Neighbours::<M, 0, 2> { strip: self, width }),
            _ => unreachable!("vectors span groups of 4 or 8 channels, not of {depth} words"),
        }
    }

    /// The source pixels that kernel position `tap` of each output pixel reads.
    ///
    /// # Safety
    /// The pixels exist.
    #[inline(always)]
    unsafe fn rows<const M: usize>(&self, first: usize, tap: usize) -> [*const f32; M] {
        let DirectTask { src, sources, weights, .. } = self.task;
        // SAFETY: `direct::convolve` checked the farthest pixel.
        unsafe {
            let start = src.data.as_ptr().add(self.panel.src_word);
            let mut rows = [start; M];
            match sources {
                PixelSources::Same => {
                    for m in 0..M {
                        rows[m] = start.add((first + m) * src.stride);
                    }
                }
                PixelSources::Table(table) => {
                    let table = table.offsets.as_ptr().add(first * weights.taps + tap);
                    for m in 0..M {
                        rows[m] = start.add(*table.add(m * weights.taps) as usize);
                    }
                }
            }
            rows
        }
    }

    /// The panel's first weight.
    #[inline(always)]
    fn weights(&self) -> *const f32 {
        assert_eq!(self.values.len(), self.panel.weights.len());
        self.values.as_ptr()
    }

    /// The initial sums: the bias, or zero where sums have other units than the bias.
    ///
    /// # Safety
    /// The CPU has `W`'s instructions.
    #[inline(always)]
    unsafe fn initial<W: DotProduct, const N: usize>(&self) -> [V<W>; N] {
        let bias = &self.task.weights.panels.bias[self.panel.bias.clone()][..N * W::S::LANES];
        // SAFETY: the bias is padded to whole vectors.
        unsafe {
            let mut initial = [W::S::zero(); N];
            if !W::SCALED {
                for v in 0..N {
                    initial[v] = W::S::load(bias.as_ptr().add(v * W::S::LANES));
                }
            }
            initial
        }
    }

    /// The memory that [`finish`](Self::finish) will read and write for `pixels` pixels from `first` on, for prefetching.
    #[inline(always)]
    pub fn outputs<W: DotProduct>(&self, first: usize, pixels: usize) -> Outputs {
        let Strip { task, panel, .. } = self;
        let out = (task.out.as_ptr().cast::<f32>(), task.out_stride);
        Outputs::new(out, task.residual, (first, panel.dst_channel * W::BYTES / 4), pixels)
    }

    /// Finishes the sums of `M` pixels from `first` on, `N` vectors each: converts them to f32 and adds the bias if they did
    /// not start from it, adds a residual, applies ReLU and stores.
    ///
    /// # Safety
    /// The CPU has `W`'s instructions, the pixels exist, and no other thread writes their panel.
    #[inline(always)]
    pub unsafe fn finish<W: DotProduct, const M: usize, const N: usize>(
        &self,
        first: usize,
        sums: &mut [V<W>],
    ) {
        let Strip { task, panel, .. } = *self;
        let lanes = W::S::LANES;
        // The offset of the tile's first pixel, in bytes.
        let place = |stride: usize| 4 * stride * first + panel.dst_channel * W::BYTES;
        let out =
            task.out.pointer(place(task.out_stride), 4 * task.out_stride * (M - 1) + panel.width * W::BYTES);
        let residual =
            task.residual.map(|r| (r.data.as_ptr().cast::<u8>().wrapping_add(place(r.stride)), r.stride));
        // Loops over the sums have small constant bounds and are unrolled: otherwise the sums would be kept in memory.
        // SAFETY: the kernel's `convolve` checked output and residual; the constants are padded to whole vectors.
        unsafe {
            let finish = Finish::<W>::new(&task.epilogue);
            let length = if W::SCALED { 2 * N * lanes } else { N * lanes };
            let constants = &task.weights.panels.bias[panel.bias.clone()][..length];
            for v in 0..N {
                for m in 0..M {
                    let constants = constants.as_ptr().add(v * lanes);
                    sums[m * N + v] = finish.scaled(sums[m * N + v], constants, N * lanes);
                }
            }
            if panel.width < N * lanes {
                let mut parts = [0f32; 28 * MAX_LANES];
                for i in 0..M * N {
                    W::S::store(parts[i * lanes..].as_mut_ptr(), sums[i]);
                }
                for (m, sums) in parts.chunks_exact(N * lanes).take(M).enumerate() {
                    let residual = residual.map(|(channels, stride)| channels.add(4 * stride * m));
                    self.finish_part::<W>(&sums[..panel.width], residual, out.add(4 * task.out_stride * m));
                }
                return;
            }
            for m in 0..M {
                let out = out.add(4 * task.out_stride * m);
                let residual = residual.map(|(channels, stride)| channels.add(4 * stride * m));
                for v in 0..N {
                    let residual = residual.map(|channels| channels.add(v * lanes * W::BYTES));
                    sums[m * N + v] = finish.bounded(sums[m * N + v], residual);
                }
                match N {
                    2 => W::store_both(out, [sums[m * N], sums[m * N + N - 1]]),
                    _ => W::store(out, sums[m]),
                }
            }
        }
    }

    /// [`finish`](Self::finish) for the channels of a partial vector; the sums include the bias.
    ///
    /// # Safety
    /// There are as many channels as sums.
    unsafe fn finish_part<W: DotProduct>(&self, sums: &[f32], residual: Option<*const u8>, out: *mut u8) {
        let Epilogue { least, residual_step, .. } = self.task.epilogue;
        for (k, &sum) in sums.iter().enumerate() {
            // SAFETY: the function's contract; channels need no alignment.
            unsafe {
                // Rounded once, as in whole vectors.
                let add = |x: *const u8| residual_step.mul_add(W::load_one(x.add(k * W::BYTES)), sum);
                let y = residual.map_or(sum, add);
                // Not `max`, which would lose NaN.
                W::store_one(out.add(k * W::BYTES), if y < least { least } else { y });
            }
        }
    }
}

/// Tiles of `M` pixels times `N` vectors: each source word's weights times one broadcast per pixel.
struct Dense<'a, const M: usize, const N: usize>(&'a Strip<'a>);

impl<const M: usize, const N: usize> DotKernel for Dense<'_, M, N> {
    #[inline(always)]
    unsafe fn with_dot<W: DotProduct>(self) {
        if const { M > W::S::TILE } {
            unreachable!("`strips` chooses no tile that registers have no room for");
        }
        let strip = self.0;
        let Strip { task, panel, pixels, .. } = strip;
        let DirectTask { src, .. } = task;
        // The next tile's pixels, if they follow in memory: into the first-level cache where they are few enough to stay.
        const FEW: usize = 4096;
        let in_order = matches!(task.sources, PixelSources::Same) && src.stride <= panel.depth + MAX_LANES;
        let next = if in_order { M * src.stride } else { 0 };
        let into = if M * panel.depth <= FEW { CacheLevel::First } else { CacheLevel::Second };
        let steps = panel.depth.div_ceil(STEP);
        // A few per step: all at once, they would delay the tile's own reads.
        let each = M.div_ceil(steps);
        for first in pixels.clone().step_by(M) {
            // SAFETY: the CPU has W's instructions; this reads the panel's words of source pixels that exist,
            // and this panel's packed weights.
            unsafe {
                let mut acc = [strip.initial::<W, N>(); M];
                let mut weights = strip.weights();
                let mut fetch = task.plan.take(task.weights.taps * steps);
                let mut outputs = strip.outputs::<W>(first, M);
                for tap in 0..task.weights.taps {
                    let rows = strip.rows::<M>(first, tap);
                    let mut next = PrefetchRun::words(rows[0].wrapping_add(next), next, steps);
                    let meanwhile = || {
                        next.step(1, into);
                        fetch.step(1, CacheLevel::Second);
                        outputs.prefetch(each, N * W::S::LANES * W::BYTES / 4);
                    };
                    sum_products::<W, M, N>(&mut acc, rows, &mut weights, panel.depth, meanwhile);
                }
                strip.finish::<W, M, N>(first, acc.as_flattened_mut());
            }
        }
    }
}

/// Accumulates `depth` words of `M` pixels times as many rows of `N` vectors of weights, and advances `weights` past them.
/// Calls `meanwhile` in each step.
///
/// # Safety
/// The CPU has `W`'s instructions, and pixels and weights can be read.
#[inline(always)]
unsafe fn sum_products<W: DotProduct, const M: usize, const N: usize>(
    acc: &mut [[V<W>; N]; M],
    rows: [*const f32; M],
    weights: &mut *const f32,
    depth: usize,
    mut meanwhile: impl FnMut(),
) {
    // A local copy is kept in registers.
    let mut sums = *acc;
    for step in (0..depth).step_by(STEP) {
        meanwhile();
        for c in step..depth.min(step + STEP) {
            // SAFETY: the function's contract.
            unsafe {
                let mut w = [W::S::zero(); N];
                for v in 0..N {
                    w[v] = W::S::load(weights.add(v * W::S::LANES));
                }
                *weights = weights.add(N * W::S::LANES);
                for m in 0..M {
                    let x = W::S::splat(rows[m].add(c));
                    for v in 0..N {
                        sums[m][v] = W::dot(x, w[v], sums[m][v]);
                    }
                }
            }
        }
    }
    *acc = sums;
}

/// Tiles of `M` pixels times one vector that spans several groups: each lane needs a word of its own group, which a permute
/// of the source vector brings.
struct Spanning<'a, const M: usize>(&'a Strip<'a>);

impl<const M: usize> DotKernel for Spanning<'_, M> {
    #[inline(always)]
    unsafe fn with_dot<W: DotProduct>(self) {
        if const { M > W::S::TILE } {
            unreachable!("`strips` chooses no tile that registers have no room for");
        }
        let strip = self.0;
        let Strip { task, panel, pixels, .. } = strip;
        for first in pixels.clone().step_by(M) {
            // SAFETY: as for the dense tile; `direct::convolve` checked that whole source vectors can be read.
            unsafe {
                let [initial] = strip.initial::<W, 1>();
                let mut acc = [initial; M];
                let mut weights = strip.weights();
                for tap in 0..task.weights.taps {
                    let rows = strip.rows::<M>(first, tap);
                    for c in 0..panel.depth {
                        let w = W::S::load(weights);
                        weights = weights.add(W::S::LANES);
                        let index = W::S::index(|lane| task.weights.lane_words[c][lane].into());
                        for m in 0..M {
                            let x = W::S::permute(W::S::load(rows[m]), index);
                            acc[m] = W::dot(x, w, acc[m]);
                        }
                    }
                }
                strip.finish::<W, M, 1>(first, &mut acc);
            }
        }
    }
}

/// The sizes of tiles of [`Neighbours`], in pixels of a row.
pub const ROW_TILES: [usize; 7] = [16, 14, 8, 7, 4, 2, 1];

/// Whether tiles of `m` neighbours, `stride` source pixels apart, are compiled for an instruction set whose tiles two vectors
/// wide have `tile` pixels: sums fit the registers, and there are few sizes where speed matters less.
pub const fn has_row_tile(m: usize, stride: usize, tile: usize) -> bool {
    match m {
        16 | 14 => tile >= 14,
        8 | 7 => tile >= 6,
        2 => tile >= 14 && stride == 1,
        _ => true,
    }
}

/// The rows that a tile of `m` neighbours computes at once: two where registers have room for both, since too few sums would
/// wait for each other.
const fn rows_at_once(m: usize, stride: usize, tile: usize) -> usize {
    if tile >= 14 && stride == 1 && matches!(m, 4 | 7 | 8) { 2 } else { 1 }
}

/// Tiles of `M` neighbours in a row or two, `STRIDE` source pixels apart, times one vector, for kernels with three columns: a
/// source pixel that is loaded or broadcast once serves all output pixels of the row that read it. `DEPTH` is the panel's
/// depth where the vector spans groups, and 0 where it does not.
struct Neighbours<'a, const M: usize, const DEPTH: usize, const STRIDE: usize> {
    strip: &'a Strip<'a>,
    /// Pixels per row.
    width: usize,
}

impl<const M: usize, const DEPTH: usize, const STRIDE: usize> DotKernel for Neighbours<'_, M, DEPTH, STRIDE> {
    #[inline(always)]
    unsafe fn with_dot<W: DotProduct>(self) {
        // Combinations that are never chosen are not compiled either: these conditions are constants.
        if const { !W::ROWS } {
            unreachable!("`direct::pack` packs no rows for it");
        }
        if const {
            let channels = DEPTH * W::CHANNELS;
            DEPTH > 0 && (channels != 4 && channels != 8 || channels >= W::S::LANES)
        } {
            unreachable!("vectors span groups of 4 or 8 channels, which fill none of them");
        }
        if const { !has_row_tile(M, STRIDE, W::S::TILE) } {
            unreachable!("`rows` chooses tiles that are compiled");
        }
        if const { W::BYTES * W::CHANNELS != 4 } {
            unreachable!(
                "not chosen where what is written is not as what is read, which a last layer alone has"
            );
        }
        let Strip { task, pixels, .. } = self.strip;
        // SAFETY: the CPU has W's instructions.
        let mut indices = [unsafe { W::S::index(|_| 0) }; DEPTH];
        for (index, words) in indices.iter_mut().zip(&task.weights.lane_words) {
            // SAFETY: as above.
            *index = unsafe { W::S::index(|lane| words[lane].into()) };
        }
        let mut first = pixels.start;
        while first < pixels.end {
            let both =
                const { rows_at_once(M, STRIDE, W::S::TILE) == 2 } && first + 2 * self.width <= pixels.end;
            for x in (0..self.width).step_by(M) {
                // The last tile starts early enough to be whole; what it computes twice has the same bits.
                let at = first + x.min(self.width - M);
                // SAFETY: as for the other tiles.
                unsafe {
                    if const { rows_at_once(M, STRIDE, W::S::TILE) == 2 } && both {
                        self.tile::<W, 2>(at, &indices);
                    } else {
                        self.tile::<W, 1>(at, &indices);
                    }
                }
            }
            first += if both { 2 * self.width } else { self.width };
        }
    }
}

impl<const M: usize, const DEPTH: usize, const STRIDE: usize> Neighbours<'_, M, DEPTH, STRIDE> {
    /// One tile in `R` rows, one or two.
    ///
    /// # Safety
    /// The CPU has W's instructions, and the pixels exist.
    #[inline(always)]
    unsafe fn tile<W: DotProduct, const R: usize>(
        &self,
        first: usize,
        indices: &[<W::S as Simd>::Index; DEPTH],
    ) {
        let Strip { task, panel, .. } = self.strip;
        let depth = if DEPTH == 0 { panel.depth } else { DEPTH };
        let PixelSources::Table(table) = task.sources else { return };
        let table = table.offsets.as_ptr();
        let start = task.src.data.as_ptr().wrapping_add(panel.src_word);
        // SAFETY: the function's contract; `direct::convolve` checked the farthest pixel.
        unsafe {
            // Two named arrays: of one array for both rows, parts would be kept in memory.
            let [initial] = self.strip.initial::<W, 1>();
            let (mut acc, mut below) = ([initial; M], [initial; M]);
            let mut weights = self.strip.weights();
            let mut fetch = task.plan.take(task.weights.taps * depth.div_ceil(STEP));
            for row in 0..R {
                self.strip.outputs::<W>(first + row * self.width, M).prefetch(M, W::S::LANES * W::BYTES / 4);
            }
            for tap in (0..task.weights.taps).step_by(3) {
                fetch.step(3 * depth.div_ceil(STEP), CacheLevel::Second);
                // Source pixel j of a row is column j - m · STRIDE of output pixel m. A loop rather than a closure, which
                // might become a call that has to save all vector registers.
                let mut rows = [[start; 33]; R];
                for row in 0..R {
                    for j in 0..(M - 1) * STRIDE + 3 {
                        let m = if j / STRIDE < M { j / STRIDE } else { M - 1 };
                        let at = (first + row * self.width + m) * task.weights.taps + tap + j - m * STRIDE;
                        rows[row][j] = start.add(*table.add(at) as usize);
                    }
                }
                for c in 0..depth {
                    let mut w = [W::S::zero(); 3];
                    for column in 0..3 {
                        w[column] = W::S::load(weights.add(column * W::S::LANES));
                    }
                    weights = weights.add(3 * W::S::LANES);
                    fma_row3!(M, STRIDE, W::dot, acc, w, |j| match DEPTH {
                        0 => W::S::splat(rows[0][j].add(c)),
                        _ => W::S::permute(W::S::load(rows[0][j]), indices[c]),
                    });
                    if const { R == 2 } {
                        fma_row3!(M, STRIDE, W::dot, below, w, |j| match DEPTH {
                            0 => W::S::splat(rows[R - 1][j].add(c)),
                            _ => W::S::permute(W::S::load(rows[R - 1][j]), indices[c]),
                        });
                    }
                }
            }
            self.strip.finish::<W, M, 1>(first, &mut acc);
            if const { R == 2 } {
                self.strip.finish::<W, M, 1>(first + self.width, &mut below);
            }
        }
    }
}
