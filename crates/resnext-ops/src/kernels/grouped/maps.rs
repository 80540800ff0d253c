//! Maps from maps: the forward pass and the gradient of the input, which is a forward pass over the result's gradient
//! with the kernel turned around.

use super::super::geometry::ConvShape;
use super::super::neighbours::neighbours;
use super::super::planes::{Ahead, Fill, Operand, Scratch, expect};
use super::super::shared::{SharedMut, written};
use super::super::simd::{Element, Isa, Kernel, Simd, lanes_and_tile, run};
use super::{Walk, group_index, sources, takes};
use rayon::prelude::*;
use std::ops::Range;

/// `weight` (Cout, Cin/groups, 3, 3) in the order the kernel reads it: `[output vector][source vector of its
/// groups][row][source channel][column][LANES]`.
pub(crate) struct Packed<T> {
    values: Vec<T>,
    backward: bool,
}

impl<T: Element> Packed<T> {
    /// For the forward pass.
    pub(crate) fn forward(isa: Isa, shape: &ConvShape, weight: &[T]) -> Self {
        let group = shape.group_in();
        let at = |k: usize, c: usize, y: usize, x: usize| weight[(k * group + c) * 9 + y * 3 + x];
        Packed { values: Self::pack(isa, shape, at), backward: false }
    }

    /// For the gradient of the input.
    pub(crate) fn backward(isa: Isa, shape: &ConvShape, weight: &[T]) -> Self {
        let group = shape.group_in();
        let at = |k: usize, c: usize, y: usize, x: usize| {
            weight[((k / group * group + c) * group + k % group) * 9 + (2 - y) * 3 + 2 - x]
        };
        Packed { values: Self::pack(isa, shape, at), backward: true }
    }

    fn pack(isa: Isa, shape: &ConvShape, at: impl Fn(usize, usize, usize, usize) -> T + Sync) -> Vec<T> {
        assert!(takes::<T>(isa, shape));
        let ((lanes, _), group) = (lanes_and_tile::<T>(isa), shape.group_in());
        let (sources, depth) = sources(group, lanes);
        let mut values = vec![T::ZERO; shape.out_channels * sources * depth * 9];
        values.par_chunks_mut(sources * depth * 9 * lanes).enumerate().for_each(|(vector, values)| {
            for (i, values) in values.chunks_exact_mut(lanes).enumerate() {
                let (x, c, y, source) = (i % 3, i / 3 % depth, i / 3 / depth % 3, i / 3 / depth / 3);
                for (lane, value) in values.iter_mut().enumerate() {
                    *value = at(vector * lanes + lane, source * lanes + c, y, x);
                }
            }
        });
        values
    }
}

/// The convolution of an operand, channels-last, and what `finish` made of each block of pixels, in order: it is
/// given the number of the block's first pixel and the block.
pub(crate) fn forward<T: Element, R: Send>(
    isa: Isa,
    shape: &ConvShape,
    operand: Operand<T>,
    weight: &Packed<T>,
    finish: impl Fn(usize, &mut [T]) -> R + Sync,
) -> (Vec<T>, Vec<R>) {
    assert!(!weight.backward);
    solve(isa, &Walk::forward(shape), operand, weight, finish)
}

/// The gradient of the input from an operand that is the result's; otherwise as [`forward`].
pub(crate) fn input_gradient<T: Element, R: Send>(
    isa: Isa,
    shape: &ConvShape,
    operand: Operand<T>,
    weight: &Packed<T>,
    finish: impl Fn(usize, &mut [T]) -> R + Sync,
) -> (Vec<T>, Vec<R>) {
    assert!(weight.backward);
    solve(isa, &Walk::backward(shape), operand, weight, finish)
}

fn solve<T: Element, R: Send>(
    isa: Isa,
    walk: &Walk,
    operand: Operand<T>,
    weight: &Packed<T>,
    finish: impl Fn(usize, &mut [T]) -> R + Sync,
) -> (Vec<T>, Vec<R>) {
    let (lanes, _) = lanes_and_tile::<T>(isa);
    let Walk { channels, dst, .. } = *walk;
    assert_eq!(operand.len(), walk.batch * walk.src.0 * walk.src.1 * channels);
    let tasks = walk.tasks(channels, size_of::<T>());
    let write = |out: &SharedMut<T>| -> Vec<R> {
        let task = |scratch: &mut Scratch<T>, i: usize| {
            let (n, rows) = &tasks[i];
            let height = (rows.len() - 1) * walk.stride + 3;
            let plane = height * walk.places() * lanes;
            let planes = scratch.get(plane * channels / lanes);
            let runs = walk.runs(*n, rows);
            Fill { operand, channels, first: 0, width: channels, runs: &runs, planes, plane }.run(isa);
            let first = (n * dst.0 + rows.start) * dst.1;
            let (start, len) = (first * channels, rows.len() * dst.1 * channels);
            // What the next task reads; a spread map is small and soon read.
            let ahead = match tasks.get(i + 1) {
                Some((n, rows)) if walk.spread == 1 => {
                    Ahead::of(operand, channels, (n * walk.src.0 + rows.start * walk.stride) * walk.src.1)
                }
                _ => Ahead::NOTHING,
            };
            let (weights, out_rows) = (&weight.values[..], out.pointer(start, len));
            run(isa, Strips { walk, rows, planes, plane, ahead, weights, out: out_rows });
            // SAFETY: the strips have written all pixels of the rows, which are this task's alone.
            finish(first, unsafe { out.slice(start, len) })
        };
        (0..tasks.len()).into_par_iter().map_init(Scratch::default, task).collect()
    };
    // SAFETY: tasks write rows that together are all images, and strips all channels.
    unsafe { written(walk.batch * dst.0 * dst.1 * channels, write) }
}

/// Some rows of one image.
struct Strips<'a, T> {
    walk: &'a Walk,
    rows: &'a Range<usize>,
    planes: &'a [T],
    plane: usize,
    ahead: Ahead<'a, T>,
    weights: &'a [T],
    /// The first element of the first row.
    out: *mut T,
}

impl<T: Element> Kernel<T> for Strips<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd<T = T>>(self) {
        let Walk { group, channels, .. } = *self.walk;
        let (sources, depth) = sources(group, S::LANES);
        let height = (self.rows.len() - 1) * self.walk.stride + 3;
        assert!(height * self.walk.places() * S::LANES <= self.plane);
        assert!(channels / S::LANES * self.plane <= self.planes.len());
        assert!(channels * sources * depth * 9 == self.weights.len());
        // SAFETY: the CPU has S's instructions; sizes are as asserted.
        unsafe {
            match (group < S::LANES, group, self.walk.stride) {
                (true, 4, 1) => self.tiles::<S, 4, 1>(),
                (true, 4, _) => self.tiles::<S, 4, 2>(),
                (true, _, 1) => self.tiles::<S, 8, 1>(),
                (true, _, _) => self.tiles::<S, 8, 2>(),
                (false, _, 1) => self.tiles::<S, 0, 1>(),
                (false, _, _) => self.tiles::<S, 0, 2>(),
            }
        }
    }
}

impl<T: Element> Strips<'_, T> {
    /// # Safety
    /// The CPU has `S`'s instructions; sizes are those that `run` asserts.
    #[inline(always)]
    unsafe fn tiles<S: Simd<T = T>, const DEPTH: usize, const STRIDE: usize>(&self) {
        // As many neighbours as registers hold beside three weights and a source; of the sizes that maps have,
        // the one that computes the fewest twice. What few use is compiled in few sizes.
        let width = self.walk.dst.1;
        let sizes: &[usize] = match (const { wide::<S>() }, const { S::TILE >= 6 }) {
            (true, _) => &[16, 14, 8, 7, 4, 1],
            (_, true) => &[8, 4, 1],
            _ => &[4, 1],
        };
        let tiles = |m: &&usize| (width.div_ceil(**m) * (2 * **m + 1), **m);
        let m = sizes.iter().filter(|&&m| m <= width).min_by_key(tiles).copied().unwrap_or(1);
        // SAFETY: passed on.
        unsafe {
            if const { wide::<S>() } {
                match m {
                    16 => return self.vectors::<S, DEPTH, STRIDE, 16>(),
                    14 => return self.vectors::<S, DEPTH, STRIDE, 14>(),
                    7 => return self.vectors::<S, DEPTH, STRIDE, 7>(),
                    _ => {}
                }
            }
            if const { S::TILE >= 6 } && m == 8 {
                return self.vectors::<S, DEPTH, STRIDE, 8>();
            }
            match m {
                4 => self.vectors::<S, DEPTH, STRIDE, 4>(),
                _ => self.vectors::<S, DEPTH, STRIDE, 1>(),
            }
        }
    }

    /// # Safety
    /// The CPU has `S`'s instructions; sizes are those that `run` asserts.
    #[inline(always)]
    unsafe fn vectors<S: Simd<T = T>, const DEPTH: usize, const STRIDE: usize, const M: usize>(&self) {
        let Walk { group, channels, dst, .. } = *self.walk;
        let (sources, depth) = sources(group, S::LANES);
        let weights = sources * depth * 9 * S::LANES;
        // SAFETY: the CPU has S's instructions.
        let lane_indices: [S::Index; 8] = std::array::from_fn(|c| unsafe { group_index::<S, DEPTH>(c) });
        for vector in 0..channels / S::LANES {
            let source = vector * S::LANES / group.max(S::LANES) * sources;
            for (i, y) in self.rows.clone().enumerate() {
                let top = self.walk.top(y);
                let skip = [0, 1, 2].map(|ky| self.walk.row(top + ky).is_none());
                for x in (0..dst.1).step_by(M) {
                    // The last tile begins early enough to be whole; what it computes again is the same.
                    let x = x.min(dst.1 - M);
                    let at = (i * STRIDE * self.walk.places() + x * STRIDE) * S::LANES;
                    // SAFETY: the row's planes hold (M - 1) · STRIDE + 3 places from there on in each of three rows.
                    unsafe {
                        let planes = self.planes.as_ptr().add(source * self.plane + at);
                        let weights = self.weights.as_ptr().add(vector * weights);
                        let out = self.out.add((i * dst.1 + x) * channels + vector * S::LANES);
                        expect(out, M, channels);
                        for row in 0..STRIDE {
                            let next = (i * STRIDE + row) * self.walk.src.1 + x * STRIDE;
                            for m in 0..M * STRIDE {
                                self.ahead.fetch(next + m, vector * S::LANES);
                            }
                        }
                        self.tile::<S, DEPTH, STRIDE, M>(planes, weights, sources, &skip, &lane_indices, out);
                    }
                }
            }
        }
    }

    /// `M` neighbours times one vector.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions; the places, weights and output pixels exist.
    #[inline(always)]
    unsafe fn tile<S: Simd<T = T>, const DEPTH: usize, const STRIDE: usize, const M: usize>(
        &self,
        planes: *const T,
        weights: *const T,
        sources: usize,
        skip: &[bool; 3],
        lane_indices: &[S::Index; 8],
        out: *mut T,
    ) {
        let depth = if DEPTH == 0 { S::LANES } else { DEPTH };
        // SAFETY: the function's contract.
        unsafe {
            let mut acc = [S::zero(); M];
            for source in 0..sources {
                for ky in 0..3 {
                    if skip[ky] {
                        continue;
                    }
                    let row = planes.add(source * self.plane + ky * self.walk.places() * S::LANES);
                    let weights = weights.add((source * 3 + ky) * depth * 3 * S::LANES);
                    for c in 0..depth {
                        let w = [0, 1, 2].map(|kx| S::load(weights.add((c * 3 + kx) * S::LANES)));
                        neighbours!(M, STRIDE, S::fma, acc, w, |j| match DEPTH {
                            0 => S::splat(row.add(j * S::LANES + c)),
                            _ => S::permute(S::load(row.add(j * S::LANES)), lane_indices[c]),
                        });
                    }
                }
            }
            for m in 0..M {
                S::store(out.add(m * self.walk.channels), acc[m]);
            }
        }
    }
}

/// Whether tiles of sixteen neighbours are worth being compiled: 32 registers, and the type networks are trained in.
const fn wide<S: Simd>() -> bool {
    S::TILE >= 14 && size_of::<S::T>() == 4
}
