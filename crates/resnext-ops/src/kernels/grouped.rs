//! Grouped 3×3 convolutions with padding 1 and stride 1 or 2, as training needs them: forward, the gradient of
//! the input, the gradient of the weight.
//!
//! A task takes some rows of an image as bordered planes ([`super::planes`]). A register tile is a run of
//! neighbours in a row times one vector of channels; what is brought to a register of a source pixel serves all
//! three columns of the kernel. Where a vector spans several groups, a permute brings a lane its group's channel;
//! in wider groups a broadcast does.

use super::geometry::ConvShape;
use super::planes::{Fill, Operand, Run, Scratch};
use super::shared::{SharedMut, written};
use super::simd::{Element, Isa, Kernel, Simd, lanes_and_tile, run};
use rayon::prelude::*;
use std::hint::black_box;
use std::ops::Range;

/// Bytes of planes a task fills at most: less than half of a core's cache.
const TASK_BYTES: usize = 400 << 10;
/// Partial sums of the weight's gradient there are at most.
const PARTS: usize = 8;

/// Whether these kernels take a convolution.
pub(crate) fn takes<T: Element>(isa: Isa, shape: &ConvShape) -> bool {
    let (lanes, _) = lanes_and_tile::<T>(isa);
    let (width, config) = (shape.group_in(), shape.config);
    let spanning = width < lanes && matches!(width, 4 | 8);
    shape.kernel_h == 3
        && shape.kernel_w == 3
        && width == shape.group_out()
        && shape.in_channels.is_multiple_of(lanes)
        && (spanning || width.is_multiple_of(lanes))
        && config.padding == 1
        && config.dilation == 1
        && config.stride <= 2
        && shape.in_h.min(shape.in_w) >= config.stride
}

/// A walk like the forward one's: maps of one size become maps of another, through 3×3 windows.
struct Walk {
    batch: usize,
    /// Height and width of the maps in memory, and pixels they lie apart in the maps the windows see.
    src: (usize, usize),
    spread: usize,
    /// Height and width of those, without their border of one.
    seen: (usize, usize),
    dst: (usize, usize),
    stride: usize,
    channels: usize,
    /// Channels a group.
    group: usize,
}

impl Walk {
    /// Rows of output a task takes: a function of the sizes alone, because sums run over tasks.
    fn rows(&self, element: usize) -> usize {
        let row = (self.seen.1 + 3) * self.channels * element;
        let most = (TASK_BYTES / row).saturating_sub(2) / self.stride;
        let parts = self.dst.0.div_ceil(most.max(1));
        self.dst.0.div_ceil(parts)
    }

    /// Tasks: an image and rows of output.
    fn tasks(&self, element: usize) -> Vec<(usize, Range<usize>)> {
        let rows = self.rows(element).max(1);
        let of_image = |n| (0..self.dst.0).step_by(rows).map(move |y| (n, y..self.dst.0.min(y + rows)));
        (0..self.batch).flat_map(of_image).collect()
    }

    /// The row of the maps seen, without the border, that the windows of output row `y` begin with.
    fn top(&self, y: usize) -> isize {
        (y * self.stride) as isize - 1
    }

    /// The row in memory behind a row seen; `None` is all zeros.
    fn row(&self, y: isize) -> Option<usize> {
        let y = usize::try_from(y).ok().filter(|&y| y < self.seen.0 && y.is_multiple_of(self.spread))?;
        Some(y / self.spread).filter(|&row| row < self.src.0)
    }

    /// Places a row of planes has: the map, its border, and one for a stride's last step.
    fn places(&self) -> usize {
        self.seen.1 + 3
    }

    /// The runs that bring the rows seen by output rows `rows` of image `n` into planes.
    fn runs(&self, n: usize, rows: &Range<usize>) -> Vec<Run> {
        let mut runs = Vec::new();
        for (i, y) in (self.top(rows.start)..self.top(rows.end - 1) + 3).enumerate() {
            let to = i * self.places();
            // Rows of zeros are never read.
            let Some(row) = self.row(y) else { continue };
            let first = (n * self.src.0 + row) * self.src.1;
            if self.spread > 1 {
                runs.push(Run { to, count: self.places(), spread: 1, from: None });
            } else {
                runs.push(Run { to, count: 1, spread: 1, from: None });
                runs.push(Run { to: to + self.src.1 + 1, count: 2, spread: 1, from: None });
            }
            let (to, count, spread) = (to + 1, self.src.1, self.spread);
            runs.push(Run { to, count, spread, from: Some((first, 1)) });
        }
        runs
    }
}

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

/// Vectors an output vector reads of, and channels of each that reach a lane.
fn sources(group: usize, lanes: usize) -> (usize, usize) {
    if group < lanes { (1, group) } else { (group / lanes, lanes) }
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
    let walk = Walk {
        batch: shape.batch,
        src: (shape.in_h, shape.in_w),
        spread: 1,
        seen: (shape.in_h, shape.in_w),
        dst: (shape.out_h, shape.out_w),
        stride: shape.config.stride,
        channels: shape.in_channels,
        group: shape.group_in(),
    };
    solve(isa, &walk, operand, weight, finish)
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
    // A stride's gradient is that of a stride of 1 whose skipped results have gradient zero.
    let walk = Walk {
        batch: shape.batch,
        src: (shape.out_h, shape.out_w),
        spread: shape.config.stride,
        seen: (shape.in_h, shape.in_w),
        dst: (shape.in_h, shape.in_w),
        stride: 1,
        channels: shape.in_channels,
        group: shape.group_in(),
    };
    solve(isa, &walk, operand, weight, finish)
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
    let tasks = walk.tasks(size_of::<T>());
    let write = |out: &SharedMut<T>| -> Vec<R> {
        let task = |scratch: &mut Scratch<T>, (n, rows): &(usize, Range<usize>)| {
            let height = (rows.len() - 1) * walk.stride + 3;
            let plane = height * walk.places() * lanes;
            let planes = scratch.get(plane * channels / lanes);
            let runs = walk.runs(*n, rows);
            Fill { operand, channels, first: 0, width: channels, runs: &runs, planes, plane }.run(isa);
            let first = (n * dst.0 + rows.start) * dst.1;
            let (start, len) = (first * channels, rows.len() * dst.1 * channels);
            run(
                isa,
                Strips { walk, rows, planes, plane, weights: &weight.values, out: out.pointer(start, len) },
            );
            // SAFETY: the strips have written all pixels of the rows, which are this task's alone.
            finish(first, unsafe { out.slice(start, len) })
        };
        tasks.par_iter().map_init(Scratch::default, task).collect()
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
                        // Written out, not a loop, or the sums would be kept in memory.
                        macro_rules! sources {
                            ($($j:literal)*) => { $(
                                if $j < (M - 1) * STRIDE + 3 {
                                    let x = match DEPTH {
                                        0 => S::splat(row.add($j * S::LANES + c)),
                                        _ => S::permute(S::load(row.add($j * S::LANES)), lane_indices[c]),
                                    };
                                    if $j % STRIDE == 0 && $j / STRIDE < M {
                                        acc[$j / STRIDE] = S::fma(x, w[0], acc[$j / STRIDE]);
                                    }
                                    if $j >= 1 && ($j - 1) % STRIDE == 0 && ($j - 1) / STRIDE < M {
                                        acc[($j - 1) / STRIDE] = S::fma(x, w[1], acc[($j - 1) / STRIDE]);
                                    }
                                    if $j >= 2 && ($j - 2) % STRIDE == 0 && ($j - 2) / STRIDE < M {
                                        acc[($j - 2) / STRIDE] = S::fma(x, w[2], acc[($j - 2) / STRIDE]);
                                    }
                                }
                            )* };
                        }
                        sources!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32);
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

/// The index that brings every lane channel `c` of its group of `DEPTH`. Opaque to the compiler, which would make
/// two shuffles of a permute it knows, and keep their results in registers there are none of.
///
/// # Safety
/// The CPU has `S`'s instructions.
#[inline(always)]
unsafe fn group_index<S: Simd, const DEPTH: usize>(c: usize) -> S::Index {
    let c = black_box(c);
    // SAFETY: passed on; the index is below the vector's length.
    unsafe { S::index(|lane| lane.checked_div(DEPTH).map_or(0, |group| group * DEPTH + c % DEPTH.max(1))) }
}

/// The gradient of the weight (Cout, Cin/groups, 3, 3) from the operands that are the convolution's input and
/// its result's gradient.
pub(crate) fn weight_gradient<T: Element>(
    isa: Isa,
    shape: &ConvShape,
    x: Operand<T>,
    gradient: Operand<T>,
) -> Vec<T> {
    assert!(takes::<T>(isa, shape));
    assert!(x.len() == shape.input_len() && gradient.len() == shape.output_len());
    let ((lanes, _), group) = (lanes_and_tile::<T>(isa), shape.group_in());
    let walk = Walk {
        batch: shape.batch,
        src: (shape.in_h, shape.in_w),
        spread: 1,
        seen: (shape.in_h, shape.in_w),
        dst: (shape.out_h, shape.out_w),
        stride: shape.config.stride,
        channels: shape.in_channels,
        group,
    };
    let channels = walk.channels;
    // Both operands are filled. Where there are many channels tasks share those, and need fewer partial sums.
    let whole_groups = (group / lanes).max(1);
    let shares = (channels / lanes / whole_groups.max(4)).clamp(1, PARTS);
    let at = |share: usize| channels / lanes / whole_groups * share / shares * whole_groups * lanes;
    let ranges: Vec<Range<usize>> = (0..shares).map(|share| at(share)..at(share + 1)).collect();
    let tasks = walk.tasks(2 * size_of::<T>());
    let parts = tasks.len().min(PARTS.div_ceil(shares));
    let sums: Vec<Vec<T>> = (0..shares * parts)
        .into_par_iter()
        .map_init(
            || (Scratch::default(), Scratch::default()),
            |(read, given): &mut (Scratch<T>, Scratch<T>), i| {
                let (range, part) = (&ranges[i / parts], i % parts);
                let (first, width) = (range.start, range.len());
                let mut sums = vec![T::ZERO; width * group * 9];
                for (n, rows) in &tasks[tasks.len() * part / parts..tasks.len() * (part + 1) / parts] {
                    let height = (rows.len() - 1) * walk.stride + 3;
                    let plane = height * walk.places() * lanes;
                    let read = read.get(plane * width / lanes);
                    let runs = walk.runs(*n, rows);
                    Fill { operand: x, channels, first, width, runs: &runs, planes: read, plane }.run(isa);
                    // Two places of zeros on either side: every source pixel then meets three gradients.
                    let places = walk.dst.1 + 4;
                    let given_plane = rows.len() * places * lanes;
                    let planes = given.get(given_plane * width / lanes);
                    let mut runs = Vec::new();
                    for (i, y) in rows.clone().enumerate() {
                        let first = (n * walk.dst.0 + y) * walk.dst.1;
                        let to = i * places;
                        runs.push(Run { to, count: 2, spread: 1, from: None });
                        runs.push(Run { to: to + 2, count: walk.dst.1, spread: 1, from: Some((first, 1)) });
                        runs.push(Run { to: to + 2 + walk.dst.1, count: 2, spread: 1, from: None });
                    }
                    let (operand, plane_len) = (gradient, given_plane);
                    Fill { operand, channels, first, width, runs: &runs, planes, plane: plane_len }.run(isa);
                    let given = &*planes;
                    run(
                        isa,
                        Sums { walk: &walk, width, rows, read, plane, given, given_plane, sums: &mut sums },
                    );
                }
                sums
            },
        )
        .collect();
    // From the sums' order, `[output vector][source vector][row][column][channel][LANES]`, to the weight's.
    let (sources, depth) = sources(group, lanes);
    let mut out = vec![T::ZERO; shape.weight_len()];
    let shared = SharedMut::new(&mut out);
    (0..channels / lanes).into_par_iter().for_each(|vector| {
        let share = ranges.iter().position(|range| range.contains(&(vector * lanes))).unwrap_or(0);
        let len = sources * depth * 9 * lanes;
        let start = (vector - ranges[share].start / lanes) * len;
        let own = &sums[share * parts..(share + 1) * parts];
        let mut total = own[0][start..start + len].to_vec();
        for sums in &own[1..] {
            total.iter_mut().zip(&sums[start..start + len]).for_each(|(total, &sum)| *total += sum);
        }
        // SAFETY: every vector of output channels has weights of its own.
        let out = unsafe { shared.slice(vector * lanes * group * 9, lanes * group * 9) };
        for (i, total) in total.chunks_exact(lanes).enumerate() {
            let (c, tap, source) = (i % depth, i / depth % 9, i / depth / 9);
            for (lane, &value) in total.iter().enumerate() {
                out[(lane * group + source * depth + c) * 9 + tap] = value;
            }
        }
    });
    out
}

/// Sums over some rows of one image, for `width` channels.
struct Sums<'a, T> {
    walk: &'a Walk,
    width: usize,
    rows: &'a Range<usize>,
    read: &'a [T],
    plane: usize,
    given: &'a [T],
    given_plane: usize,
    sums: &'a mut [T],
}

impl<T: Element> Kernel<T> for Sums<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd<T = T>>(mut self) {
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
                (false, _, 1) if S::LANES >= 8 => self.vectors::<S, false, 8, 1>(),
                (false, _, _) if S::LANES >= 8 => self.vectors::<S, false, 8, 2>(),
                (false, _, 1) => self.vectors::<S, false, 2, 1>(),
                (false, _, _) => self.vectors::<S, false, 2, 2>(),
            }
        }
    }
}

impl<T: Element> Sums<'_, T> {
    /// `C` channels at a time.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions; planes and sums have the sizes that `run` asserts.
    #[inline(always)]
    unsafe fn vectors<S: Simd<T = T>, const SPANNING: bool, const C: usize, const STRIDE: usize>(&mut self) {
        let group = self.walk.group;
        let (sources, depth) = sources(group, S::LANES);
        // SAFETY: the CPU has S's instructions.
        let lane_indices: [S::Index; C] = std::array::from_fn(|c| unsafe { group_index::<S, C>(c) });
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
    /// As above.
    #[inline(always)]
    unsafe fn tile<S: Simd<T = T>, const SPANNING: bool, const C: usize, const STRIDE: usize>(
        &mut self,
        (source, vector): (usize, usize),
        (ky, channel): (usize, usize),
        lane_indices: &[S::Index; C],
        sums: usize,
        depth: usize,
    ) {
        let width = self.walk.dst.1;
        // SAFETY: the function's contract. A row has width · STRIDE + 2 places read, its gradients width + 4.
        unsafe {
            let mut acc = [[S::zero(); C]; 3];
            let bring = |x: *const T, c: usize| match SPANNING {
                true => S::permute(S::load(x), lane_indices[c]),
                false => S::splat(x.add(channel + c)),
            };
            for (i, y) in self.rows.clone().enumerate() {
                if self.walk.row(self.walk.top(y) + ky as isize).is_none() {
                    continue;
                }
                let row = (i * STRIDE + ky) * self.walk.places() * S::LANES;
                let x = self.read.as_ptr().add(source * self.plane + row);
                let g = self.given.as_ptr().add(vector * self.given_plane + i * (width + 4) * S::LANES);
                if STRIDE == 1 {
                    for j in 0..width + 2 {
                        let g = [2, 1, 0].map(|back| S::load(g.add((j + back) * S::LANES)));
                        let x = x.add(j * S::LANES);
                        for c in 0..C {
                            let x = bring(x, c);
                            for kx in 0..3 {
                                acc[kx][c] = S::fma(x, g[kx], acc[kx][c]);
                            }
                        }
                    }
                } else {
                    // Place 2q meets column 0 of window q and column 2 of the one before, place 2q + 1 column 1.
                    for q in 0..width + 1 {
                        let g = [2, 1].map(|back| S::load(g.add((q + back) * S::LANES)));
                        let x = x.add(2 * q * S::LANES);
                        for c in 0..C {
                            let x = bring(x, c);
                            acc[0][c] = S::fma(x, g[0], acc[0][c]);
                            acc[2][c] = S::fma(x, g[1], acc[2][c]);
                        }
                        let x = x.add(S::LANES);
                        for c in 0..C {
                            acc[1][c] = S::fma(bring(x, c), g[0], acc[1][c]);
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
