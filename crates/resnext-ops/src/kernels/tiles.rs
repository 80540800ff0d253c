//! The register tiles of inference: a few pixels times up to two vectors of output channels.
//!
//! Activations are read in place, one broadcast a pixel and word. Where a group is narrower than a vector,
//! the vector spans several groups and the broadcast becomes a permute.

use super::neighbours::neighbours;
use super::packed::Panel;
use super::packed_conv::{STEP, Sources, Task, prefetch};
use super::simd::Simd;
use super::words::{MAX_LANES, Word, WordKernel, Words};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Pixels, as many as several tiles have, times a panel.
pub(super) struct Strip<'a> {
    pub(super) task: &'a Task<'a>,
    pub(super) panel: &'a Panel,
    pub(super) pixels: Range<usize>,
}

impl Strip<'_> {
    /// In tiles of `M` pixels, which are neighbours in a row, `stride` source pixels apart, unless `stride` is 0.
    /// Each kind of tile is entered, and compiled, by itself: only then do all its sums stay in registers.
    pub(super) fn run<const M: usize>(&self, words: Words, stride: usize) {
        let Panel { vectors, depth, spanning, .. } = *self.panel;
        match (spanning, vectors, depth) {
            (true, _, 2) if stride == 1 => words.run(Neighbours::<M, 2, 1>(self)),
            (true, _, 2) if stride == 2 => words.run(Neighbours::<M, 2, 2>(self)),
            (true, _, 4) if stride == 1 => words.run(Neighbours::<M, 4, 1>(self)),
            (true, _, 4) if stride == 2 => words.run(Neighbours::<M, 4, 2>(self)),
            (true, _, 8) if stride == 1 => words.run(Neighbours::<M, 8, 1>(self)),
            (true, _, 8) if stride == 2 => words.run(Neighbours::<M, 8, 2>(self)),
            (false, _, _) if stride == 1 => words.run(Neighbours::<M, 0, 1>(self)),
            (false, _, _) if stride == 2 => words.run(Neighbours::<M, 0, 2>(self)),
            (true, _, _) => words.run(Spanning::<M>(self)),
            (false, 1, _) => words.run(Dense::<M, 1>(self)),
            (false, _, _) => words.run(Dense::<M, 2>(self)),
        }
    }

    /// Where tap `tap` of each pixel begins.
    ///
    /// # Safety
    /// The pixels exist.
    #[inline(always)]
    unsafe fn rows<const M: usize>(&self, first: usize, tap: usize) -> [*const f32; M] {
        let Task { src, sources, packed, .. } = self.task;
        // SAFETY: `Packed::run` checked the farthest pixel.
        unsafe {
            let start = src.data.as_ptr().add(self.panel.src_word);
            match sources {
                Sources::Same => std::array::from_fn(|m| start.add((first + m) * src.stride)),
                Sources::Table(table) => {
                    let table = table.offsets.as_ptr().add(first * packed.taps + tap);
                    std::array::from_fn(|m| start.add(*table.add(m * packed.taps) as usize))
                }
            }
        }
    }

    /// The panel's first weight.
    #[inline(always)]
    fn weights(&self) -> *const f32 {
        self.task.packed.weights[self.panel.weights..].as_ptr()
    }

    /// Fetches what [`finish`](Self::finish) will read and write, early.
    #[inline(always)]
    fn expect<W: Word, const M: usize>(&self, first: usize) {
        let Strip { task, panel, .. } = self;
        let line = 16 * W::CHANNELS;
        for channel in (panel.dst_channel..panel.dst_channel + panel.width).step_by(line) {
            for m in first..first + M {
                let at = channel / W::CHANNELS;
                if let Some(r) = task.residual {
                    prefetch(r.data.as_ptr().wrapping_add(m * r.stride + at));
                }
                prefetch(task.out.as_ptr().cast::<f32>().wrapping_add(m * task.out_stride + at));
            }
        }
    }

    /// Adds bias and residual to the sums of `count` pixels, `N` vectors each, applies ReLU and stores.
    ///
    /// # Safety
    /// The CPU has `W`'s instructions, the pixels exist, and no other thread writes their panel.
    #[inline(always)]
    unsafe fn finish<W: Word, const N: usize>(&self, first: usize, count: usize, sums: &mut Sums) {
        let Strip { task, panel, .. } = *self;
        let (lanes, halves) = (W::S::LANES, 2 / W::CHANNELS);
        let len = panel.width * halves;
        let whole = panel.width == N * lanes;
        let bias = task.packed.bias[panel.bias..][..N * lanes].as_ptr();
        for m in 0..count {
            let at = |stride: usize| 2 * stride * (first + m) + panel.dst_channel * halves;
            // SAFETY: `Packed::run` checked output and residual; the bias is padded to whole vectors. A
            // panel narrower than its vectors goes through buffers of two of the widest.
            unsafe {
                let out = task.out.slice(at(task.out_stride), len);
                let (mut row, mut residual) = ([0u16; 4 * MAX_LANES], [0u16; 4 * MAX_LANES]);
                let mut from = residual.as_ptr();
                if let Some(r) = task.residual {
                    from = r.data.as_ptr().cast::<u16>().add(at(r.stride));
                    if !whole {
                        std::ptr::copy_nonoverlapping(from, residual.as_mut_ptr(), len);
                        from = residual.as_ptr();
                    }
                }
                let to = if whole { out.as_mut_ptr() } else { row.as_mut_ptr() };
                for v in 0..N {
                    let mut y = W::S::load(sums.at(m * N + v, lanes));
                    y = W::S::add(y, W::S::load(bias.add(v * lanes)));
                    if task.residual.is_some() {
                        y = W::S::add(y, W::load(from.add(v * lanes * halves)));
                    }
                    if task.relu {
                        y = W::S::max(y, W::S::zero());
                    }
                    W::store(to.add(v * lanes * halves), y);
                }
                if !whole {
                    out.copy_from_slice(&row[..len]);
                }
            }
        }
    }
}

/// A tile's sums on their way from registers to the output. They pass through memory so that nothing but short,
/// unrolled loops touches the registers' array, or it would be kept in memory all along.
#[repr(C, align(64))]
struct Sums(MaybeUninit<[f32; 14 * 2 * MAX_LANES]>);

impl Sums {
    #[inline(always)]
    fn new() -> Self {
        Sums(MaybeUninit::uninit())
    }

    /// Vector `i` of at most 28.
    #[inline(always)]
    fn at(&mut self, i: usize, lanes: usize) -> *mut f32 {
        debug_assert!(i < 28 && lanes <= MAX_LANES);
        self.0.as_mut_ptr().cast::<f32>().wrapping_add(i * lanes)
    }
}

/// A tile of `M` pixels times `N` vectors: every source word's weights times one broadcast a pixel.
struct Dense<'a, const M: usize, const N: usize>(&'a Strip<'a>);

impl<const M: usize, const N: usize> WordKernel for Dense<'_, M, N> {
    #[inline(always)]
    unsafe fn run<W: Word>(self) {
        let strip = self.0;
        let Strip { task, panel, pixels } = strip;
        let lanes = W::S::LANES;
        // Where the next tile's pixels lie, if in order and so few words that they stay in the first cache.
        const NEXT: usize = 4096;
        let in_order = matches!(task.sources, Sources::Same) && panel.depth * M <= NEXT;
        let next = if in_order { M * task.src.stride } else { 0 };
        for first in pixels.clone().step_by(M) {
            // SAFETY: the CPU has W's instructions; this reads the panel's words of source pixels that exist,
            // and this panel's packed weights.
            unsafe {
                let mut acc = [[W::S::zero(); N]; M];
                let mut weights = strip.weights();
                let mut fetch = task.fetches.take(task.packed.taps * panel.depth.div_ceil(STEP));
                strip.expect::<W, M>(first);
                for tap in 0..task.packed.taps {
                    let rows = strip.rows::<M>(first, tap);
                    for step in (0..panel.depth).step_by(STEP) {
                        if next > 0 {
                            for m in 0..M {
                                prefetch(rows[m].wrapping_add(step + next));
                            }
                        }
                        fetch.step();
                        for c in step..panel.depth.min(step + STEP) {
                            let mut w = [W::S::zero(); N];
                            for v in 0..N {
                                w[v] = W::S::load(weights.add(v * lanes));
                            }
                            weights = weights.add(N * lanes);
                            for m in 0..M {
                                let x = W::S::splat(rows[m].add(c));
                                for v in 0..N {
                                    acc[m][v] = W::dot(x, w[v], acc[m][v]);
                                }
                            }
                        }
                    }
                }
                let mut sums = Sums::new();
                for m in 0..M {
                    for v in 0..N {
                        W::S::store(sums.at(m * N + v, lanes), acc[m][v]);
                    }
                }
                strip.finish::<W, N>(first, M, &mut sums);
            }
        }
    }
}

/// A tile of `M` pixels times one vector of several groups: each lane needs a word of its own group, which a
/// permute of the source vector brings.
struct Spanning<'a, const M: usize>(&'a Strip<'a>);

impl<const M: usize> WordKernel for Spanning<'_, M> {
    #[inline(always)]
    unsafe fn run<W: Word>(self) {
        let strip = self.0;
        let Strip { task, panel, pixels } = strip;
        for first in pixels.clone().step_by(M) {
            // SAFETY: as for the dense tile; `Packed::run` checked that whole source vectors can be read.
            unsafe {
                let mut acc = [W::S::zero(); M];
                let mut weights = strip.weights();
                for tap in 0..task.packed.taps {
                    let rows = strip.rows::<M>(first, tap);
                    for c in 0..panel.depth {
                        let w = W::S::load(weights);
                        weights = weights.add(W::S::LANES);
                        let index = W::S::index(|lane| task.packed.lane_words[c][lane].into());
                        for m in 0..M {
                            let x = W::S::permute(W::S::load(rows[m]), index);
                            acc[m] = W::dot(x, w, acc[m]);
                        }
                    }
                }
                let mut sums = Sums::new();
                for m in 0..M {
                    W::S::store(sums.at(m, W::S::LANES), acc[m]);
                }
                strip.finish::<W, 1>(first, M, &mut sums);
            }
        }
    }
}

/// A tile of `M` neighbours in a row, `STRIDE` source pixels apart, times one vector, for kernels of three columns:
/// what is brought to a register of a source pixel serves all the output pixels it reaches. `DEPTH` is the panel's
/// where the vector spans groups, 0 where it does not.
struct Neighbours<'a, const M: usize, const DEPTH: usize, const STRIDE: usize>(&'a Strip<'a>);

impl<const M: usize, const DEPTH: usize, const STRIDE: usize> WordKernel
    for Neighbours<'_, M, DEPTH, STRIDE>
{
    #[inline(always)]
    unsafe fn run<W: Word>(self) {
        let strip = self.0;
        let Strip { task, panel, pixels } = strip;
        let depth = if DEPTH == 0 { panel.depth } else { DEPTH };
        // SAFETY: the CPU has W's instructions.
        let mut indices = [unsafe { W::S::index(|_| 0) }; DEPTH];
        for (index, words) in indices.iter_mut().zip(&task.packed.lane_words) {
            // SAFETY: as above.
            *index = unsafe { W::S::index(|lane| words[lane].into()) };
        }
        let Sources::Table(table) = task.sources else { return };
        let table = table.offsets.as_ptr();
        let start = task.src.data.as_ptr().wrapping_add(panel.src_word);
        for first in pixels.clone().step_by(M) {
            // SAFETY: as for the other tiles.
            unsafe {
                let mut acc = [W::S::zero(); M];
                let mut weights = strip.weights();
                for tap in (0..task.packed.taps).step_by(3) {
                    // Source pixel j of the row, in order, is column j - m · STRIDE of output pixel m. A loop, as a
                    // closure might become a call, before which all vector registers would have to be saved.
                    let mut row = [start; 33];
                    for j in 0..(M - 1) * STRIDE + 3 {
                        let m = if j / STRIDE < M { j / STRIDE } else { M - 1 };
                        let at = (first + m) * task.packed.taps + tap + j - m * STRIDE;
                        row[j] = start.add(*table.add(at) as usize);
                    }
                    for c in 0..depth {
                        let mut w = [W::S::zero(); 3];
                        for column in 0..3 {
                            w[column] = W::S::load(weights.add(column * W::S::LANES));
                        }
                        weights = weights.add(3 * W::S::LANES);
                        neighbours!(M, STRIDE, W::dot, acc, w, |j| match DEPTH {
                            0 => W::S::splat(row[j].add(c)),
                            _ => W::S::permute(W::S::load(row[j]), indices[c]),
                        });
                    }
                }
                let mut sums = Sums::new();
                for m in 0..M {
                    W::S::store(sums.at(m, W::S::LANES), acc[m]);
                }
                strip.finish::<W, 1>(first, M, &mut sums);
            }
        }
    }
}
