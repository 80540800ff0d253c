//! The gradient of a grouped 3×3 convolution's weight.

use super::walk::{Walk, bring, group_index, sources, supports};
use crate::memory::scratch::Scratch;
use crate::shape::ConvShape;
use crate::simd::dispatch::{Isa, dispatch, lanes};
use crate::simd::traits::{Element, Kernel, Simd, Storage, opaque};
use crate::threads::parallel::{map, write_chunks};
use crate::train::operand::Operand;
use crate::train::packing::{Pack, PixelLines, PixelRun, Prefetch};
use std::ops::Range;

/// The most partial sums.
const PARTS: usize = 8;
/// The least channels per task: of fewer, a pixel would be less than four cache lines, and memory be read in short pieces.
const LEAST_CHANNELS: usize = 64;

/// The gradient of the weight (Cout, Cin/groups, 3, 3) from the convolution's input and its output's gradient.
pub fn weight_gradient<D: Storage>(
    isa: Isa,
    shape: &ConvShape,
    x: Operand<D>,
    gradient: Operand<D>,
) -> Vec<D::Compute> {
    assert!(supports::<D::Compute>(isa, shape));
    assert!(x.len() == shape.input_len() && gradient.len() == shape.output_len());
    let (lanes, group) = (lanes::<D::Compute>(isa), shape.group_in());
    let walk = Walk::forward(shape);
    let channels = walk.channels;
    // Both operands are packed. With many channels tasks divide the channels, and need fewer partial sums.
    let whole_groups = (group / lanes).max(1);
    let shares = (channels / (whole_groups * lanes).max(LEAST_CHANNELS)).clamp(1, PARTS);
    let at = |share: usize| channels / lanes / whole_groups * share / shares * whole_groups * lanes;
    let ranges: Vec<Range<usize>> = (0..shares).map(|share| at(share)..at(share + 1)).collect();
    let widest = ranges.iter().map(Range::len).max().unwrap_or(0);
    let tasks = walk.tasks(widest, 2 * size_of::<D::Compute>(), 1);
    let parts = tasks.len().min(PARTS.div_ceil(shares));
    let sums: Vec<Vec<D::Compute>> = map(shares * parts, |i| {
        let (mut read, mut given) = (Scratch::<D::Compute>::default(), Scratch::<D::Compute>::default());
        let (range, part) = (&ranges[i / parts], i % parts);
        let (first, width) = (range.start, range.len());
        let mut sums = vec![D::Compute::ZERO; width * group * 9];
        let own = &tasks[tasks.len() * part / parts..tasks.len() * (part + 1) / parts];
        for (i, (n, rows)) in own.iter().enumerate() {
            let plane = walk.height(rows) * walk.places() * lanes;
            let read = read.get(plane * width / lanes);
            let runs = walk.runs(*n..n + 1, rows);
            Pack { operand: x, channels, first, width, runs: &runs, planes: read, plane }.pack(isa);
            // Two places of zeros on either side, so that every source pixel meets three gradients.
            let places = walk.dst.1 + 4;
            let given_plane = rows.len() * places * lanes;
            let planes = given.get(given_plane * width / lanes);
            let mut runs = Vec::new();
            for (i, y) in rows.clone().enumerate() {
                let first = (n * walk.dst.0 + y) * walk.dst.1;
                let to = i * places;
                runs.push(PixelRun { to, count: 2, to_step: 1, from: None });
                runs.push(PixelRun { to: to + 2, count: walk.dst.1, to_step: 1, from: Some((first, 1)) });
                runs.push(PixelRun { to: to + 2 + walk.dst.1, count: 2, to_step: 1, from: None });
            }
            let (operand, plane_len) = (gradient, given_plane);
            Pack { operand, channels, first, width, runs: &runs, planes, plane: plane_len }.pack(isa);
            let given = &*planes;
            let ahead = match own.get(i + 1) {
                None => [Prefetch::NONE; 2],
                Some((n, rows)) => [
                    Prefetch::of(x, channels, (n * walk.src.0 + rows.start * walk.stride) * walk.src.1),
                    Prefetch::of(gradient, channels, (n * walk.dst.0 + rows.start) * walk.dst.1),
                ],
            };
            let (walk, sums) = (&walk, &mut sums);
            dispatch(isa, RowSums { walk, first, width, rows, read, plane, given, given_plane, ahead, sums });
        }
        sums
    });
    // Reorders the sums, `[output vector][source vector][row][column][channel][LANES]`, into the weight's order.
    let (sources, depth) = sources(group, lanes);
    // Each vector of output channels has its own weights.
    write_chunks(shape.out_channels / lanes, lanes * group * 9, |vector, out: &mut [D::Compute]| {
        let share = ranges.iter().position(|range| range.contains(&(vector * lanes))).unwrap_or(0);
        let len = sources * depth * 9 * lanes;
        let start = (vector - ranges[share].start / lanes) * len;
        let own = &sums[share * parts..(share + 1) * parts];
        let mut total = own[0][start..start + len].to_vec();
        for sums in &own[1..] {
            total.iter_mut().zip(&sums[start..start + len]).for_each(|(total, &sum)| *total += sum);
        }
        for (i, total) in total.chunks_exact(lanes).enumerate() {
            let (c, tap, source) = (i % depth, i / depth % 9, i / depth / 9);
            for (lane, &value) in total.iter().enumerate() {
                out[(lane * group + source * depth + c) * 9 + tap] = value;
            }
        }
    })
}

/// Sums over some rows of one image, for `width` channels from `first` on.
struct RowSums<'a, D: Storage> {
    walk: &'a Walk,
    first: usize,
    width: usize,
    rows: &'a Range<usize>,
    read: &'a [D::Compute],
    plane: usize,
    given: &'a [D::Compute],
    given_plane: usize,
    /// Prefetches of the input and of the output's gradient.
    ahead: [Prefetch<'a, D>; 2],
    sums: &'a mut [D::Compute],
}

impl<D: Storage> Kernel<D::Compute> for RowSums<'_, D> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = D::Compute>>(mut self) {
        let Walk { group, dst, stride, .. } = *self.walk;
        let (sources, depth) = sources(group, S::LANES);
        let vectors = self.width / S::LANES;
        let height = (self.rows.len() - 1) * stride + 3;
        assert!(
            height * self.walk.places() * S::LANES <= self.plane && vectors * self.plane <= self.read.len()
        );
        assert!(self.rows.len() * (dst.1 + 4) * S::LANES <= self.given_plane);
        assert!(vectors * self.given_plane <= self.given.len());
        assert!(self.width * sources * depth * 9 == self.sums.len());
        assert!(self.width.is_multiple_of(group.max(S::LANES)));
        // SAFETY: the CPU has S's instructions; sizes are as asserted.
        unsafe {
            match (group < S::LANES, group, stride) {
                (true, 4, 1) => self.vectors::<S, true, 4, 1>(),
                (true, 4, _) => self.vectors::<S, true, 4, 2>(),
                (true, _, 1) => self.vectors::<S, true, 8, 1>(),
                (true, _, _) => self.vectors::<S, true, 8, 2>(),
                // Three sums per channel: with 16 registers, four channels leave room for three gradients and a pixel.
                (false, _, 1) if S::TILE == 6 => self.vectors::<S, false, 4, 1>(),
                (false, _, _) if S::TILE == 6 => self.vectors::<S, false, 4, 2>(),
                (false, _, 1) if S::LANES >= 8 => self.vectors::<S, false, 8, 1>(),
                (false, _, _) if S::LANES >= 8 => self.vectors::<S, false, 8, 2>(),
                (false, _, 1) => self.vectors::<S, false, 2, 1>(),
                (false, _, _) => self.vectors::<S, false, 2, 2>(),
            }
        }
    }
}

impl<D: Storage> RowSums<'_, D> {
    /// Computes `C` input channels at a time.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions; planes and sums have the sizes that `with_simd` asserts.
    #[inline(always)]
    unsafe fn vectors<S: Simd<T = D::Compute>, const SPANNING: bool, const C: usize, const STRIDE: usize>(
        &mut self,
    ) {
        if const { SPANNING && C >= S::LANES } {
            unreachable!("groups that fill vectors do not share them");
        }
        let group = self.walk.group;
        let (sources, depth) = sources(group, S::LANES);
        // SAFETY: the CPU has S's instructions.
        let mut lane_indices = [unsafe { group_index::<S, C>(0) }; C];
        for c in 1..C {
            // SAFETY: as above.
            lane_indices[c] = unsafe { group_index::<S, C>(c) };
        }
        for vector in 0..self.width / S::LANES {
            let first = vector * S::LANES / group.max(S::LANES) * sources;
            for source in 0..sources {
                for ky in 0..3 {
                    for c in (0..depth).step_by(C) {
                        let sums = (((vector * sources + source) * 9 + ky * 3) * depth + c) * S::LANES;
                        // SAFETY: passed on; C divides the depth.
                        unsafe {
                            self.tile::<S, SPANNING, C, STRIDE>(
                                (first + source, vector),
                                (ky, c),
                                &lane_indices,
                                sums,
                                depth,
                            );
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// The same as for `vectors`, and `C` divides `depth`.
    #[inline(always)]
    unsafe fn tile<S: Simd<T = D::Compute>, const SPANNING: bool, const C: usize, const STRIDE: usize>(
        &mut self,
        (source, vector): (usize, usize),
        (ky, channel): (usize, usize),
        lane_indices: &[S::Index; C],
        sums: usize,
        depth: usize,
    ) {
        let width = self.walk.dst.1;
        let [next_x, next_g] = match (ky, channel) {
            (0, 0) => [(0, source), (1, vector)]
                .map(|(i, at)| self.ahead[i].lines(self.first + at * S::LANES, S::LANES)),
            _ => [PixelLines::NONE; 2],
        };
        // SAFETY: the function's contract. A row of the input has width · STRIDE + 2 places, a row of gradients width + 4.
        unsafe {
            let mut acc = [[S::zero(); C]; 3];
            macro_rules! bring {
                ($x:expr, $c:expr) => {
                    match SPANNING {
                        true => bring::<S, C>($x, $c, lane_indices),
                        false => bring::<S, 0>($x, channel + $c, lane_indices),
                    }
                };
            }
            for (i, y) in self.rows.clone().enumerate() {
                if self.walk.row(self.walk.top(y) + ky as isize).is_none() {
                    continue;
                }
                next_x.prefetch_line(i * STRIDE * self.walk.src.1..(i + 1) * STRIDE * self.walk.src.1, 0);
                next_g.prefetch_line(i * width..(i + 1) * width, 0);
                let row = (i * STRIDE + ky) * self.walk.places() * S::LANES;
                let x = self.read.as_ptr().add(source * self.plane + row);
                let g = self.given.as_ptr().add(vector * self.given_plane + i * (width + 4) * S::LANES);
                if STRIDE == 1 {
                    for j in 0..width + 2 {
                        let last = g.add(j * S::LANES);
                        let g = [S::load(last.add(2 * S::LANES)), S::load(last.add(S::LANES))];
                        let x = x.add(j * S::LANES);
                        for c in 0..C {
                            let x = bring!(x, c);
                            // With the sums, a pixel and two gradients, 16 registers are full.
                            let last = S::load(if const { S::TILE == 6 } { opaque(last) } else { last });
                            acc[0][c] = S::fma(x, g[0], acc[0][c]);
                            acc[1][c] = S::fma(x, g[1], acc[1][c]);
                            acc[2][c] = S::fma(x, last, acc[2][c]);
                        }
                    }
                } else {
                    // Place 2q meets column 0 of window q and column 2 of the one before, place 2q + 1 column 1.
                    for q in 0..width + 1 {
                        let g = g.add(q * S::LANES);
                        let g = [S::load(g.add(2 * S::LANES)), S::load(g.add(S::LANES))];
                        let x = x.add(2 * q * S::LANES);
                        for c in 0..C {
                            let x = bring!(x, c);
                            acc[0][c] = S::fma(x, g[0], acc[0][c]);
                            acc[2][c] = S::fma(x, g[1], acc[2][c]);
                        }
                        let x = x.add(S::LANES);
                        for c in 0..C {
                            acc[1][c] = S::fma(bring!(x, c), g[0], acc[1][c]);
                        }
                    }
                }
            }
            let sums = self.sums.as_mut_ptr().add(sums);
            for kx in 0..3 {
                for c in 0..C {
                    let sum = sums.add((kx * depth + c) * S::LANES);
                    S::store(sum, S::add(S::load(sum), acc[kx][c]));
                }
            }
        }
    }
}
