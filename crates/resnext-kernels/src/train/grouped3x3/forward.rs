//! The forward pass, and the gradient of the input, which is a forward pass over the output's gradient with the kernel
//! rotated by 180°.
//!
//! Where [`winograd`] is faster, it computes the sums instead, from the same planes.

use super::walk::{MapPart, Walk, bring, group_index, sources, supports};
use crate::conv_kernel::ConvKernel;
use crate::memory::prefetch::prefetch_strided;
use crate::memory::scratch::Scratch;
use crate::row3::fma_row3;
use crate::shape::ConvShape;
use crate::simd::dispatch::{Isa, dispatch, lanes, lanes_and_tile};
use crate::simd::traits::{Element, Kernel, Simd, Storage};
use crate::threads::parallel::{map, write_chunks};
use crate::threads::shared_slice::{SharedSlice, write_vec};
use crate::train::block_sink::{BlockSink, Blocks};
use crate::train::operand::Operand;
use crate::train::packing::{Pack, PixelLines, Prefetch};
use crate::winograd::{self, TileSink, Tiling, WinogradTiles};
use std::ops::Range;

/// Packed weights: `[output vector][source vector of its groups][row][source channel][column][LANES]`, or in
/// [`winograd`]'s order.
pub struct PackedKernels<T> {
    values: Vec<T>,
    tiled: bool,
    backward: bool,
}

impl<T: Element + Storage> PackedKernels<T> {
    /// Packs `weight` (Cout, Cin/groups, 3, 3) for the forward pass.
    pub fn forward(isa: Isa, shape: &ConvShape, weight: &[T]) -> Self {
        let group = shape.group_in();
        Self::pack(isa, shape, weight, false, |channel, c| channel * group + c)
    }

    /// Packs `weight` (Cout, Cin/groups, 3, 3) for the gradient of the input: transposed within groups and rotated.
    pub fn backward(isa: Isa, shape: &ConvShape, weight: &[T]) -> Self {
        let group = shape.group_in();
        Self::pack(isa, shape, weight, true, |channel, c| {
            (channel / group * group + c) * group + channel % group
        })
    }

    /// `kernel(channel, c)` is the index of the 3×3 kernel from channel `c` of a group to output channel `channel`.
    fn pack(
        isa: Isa,
        shape: &ConvShape,
        weight: &[T],
        backward: bool,
        kernel: impl Fn(usize, usize) -> usize + Sync,
    ) -> Self {
        assert!(supports::<T>(isa, shape) && weight.len() == shape.weight_len());
        let walk = if backward { Walk::backward(shape) } else { Walk::forward(shape) };
        let (tiled, lanes, (kernels, _)) = (tiled::<T>(isa, &walk), lanes::<T>(isa), weight.as_chunks::<9>());
        let (sources, depth) = sources(shape.group_in(), lanes);
        let taps = |lane: usize, c: usize| {
            let mut taps = kernels[kernel(lane, c)];
            if backward {
                taps.reverse();
            }
            taps
        };
        if tiled {
            let size = winograd::POSITIONS * shape.group_in() * lanes;
            let values = write_chunks(shape.out_channels / lanes, size, |vector, values| {
                winograd::transform_kernels(isa, shape.group_in(), values, |channel, c| {
                    taps(vector * lanes + channel, c)
                });
            });
            return PackedKernels { values, backward, tiled };
        }
        let vectors = shape.out_channels / lanes * sources;
        let values = write_chunks(vectors, depth * 9 * lanes, |i, values| {
            let (vector, source) = (i / sources, i % sources);
            for c in 0..depth {
                for lane in 0..lanes {
                    let taps = taps(vector * lanes + lane, source * lanes + c);
                    for y in 0..3 {
                        for x in 0..3 {
                            values[((y * depth + c) * 3 + x) * lanes + lane] = taps[3 * y + x];
                        }
                    }
                }
            }
        });
        PackedKernels { values, backward, tiled }
    }
}

/// Whether Winograd's tiles compute a walk. Upsampled maps are mostly zeros, which tiles would not skip, and narrow groups
/// are bound by memory either way. Where additions and multiplications share execution units, as
/// with AVX-512 on Intel's CPUs, groups of 16 and 32 channels take longer in tiles, and those of 64 take less.
fn tiled<T: Element>(isa: Isa, walk: &Walk) -> bool {
    let lanes = lanes::<T>(isa);
    // A tiling's offsets have 32 bits.
    let short = walk.places().saturating_mul(4 * lanes) <= u32::MAX as usize;
    let pays = walk.group >= 64 || !isa.has_512_bits() || isa.has_adders();
    let whole = walk.group >= lanes && winograd::supports(lanes, walk.group);
    walk.stride == 1 && walk.upsampling == 1 && whole && short && pays
}

/// The kernel of the forward pass, or of the input's gradient if `backward`.
pub fn kernel<T: Element>(isa: Isa, shape: &ConvShape, backward: bool) -> ConvKernel {
    let walk = if backward { Walk::backward(shape) } else { Walk::forward(shape) };
    if tiled::<T>(isa, &walk) { ConvKernel::WinogradTiles } else { ConvKernel::Grouped3x3 }
}

/// The convolution of an operand (N, H, W, Cin), and what `sink` computed from each block of pixels, in order.
pub fn forward<D: Storage>(
    isa: Isa,
    shape: &ConvShape,
    operand: Operand<D>,
    weight: &PackedKernels<D::Compute>,
    sink: BlockSink<D>,
) -> (Vec<D>, Blocks<D>) {
    assert!(!weight.backward);
    solve(isa, &Walk::forward(shape), operand, weight, sink)
}

/// The gradient of the input from an operand that is the output's gradient; otherwise as [`forward`].
pub fn input_gradient<D: Storage>(
    isa: Isa,
    shape: &ConvShape,
    operand: Operand<D>,
    weight: &PackedKernels<D::Compute>,
    sink: BlockSink<D>,
) -> (Vec<D>, Blocks<D>) {
    assert!(weight.backward);
    solve(isa, &Walk::backward(shape), operand, weight, sink)
}

fn solve<D: Storage>(
    isa: Isa,
    walk: &Walk,
    operand: Operand<D>,
    weight: &PackedKernels<D::Compute>,
    sink: BlockSink<D>,
) -> (Vec<D>, Blocks<D>) {
    let lanes = lanes::<D::Compute>(isa);
    let Walk { channels, dst, group, .. } = *walk;
    assert_eq!(operand.len(), walk.batch * walk.src.0 * walk.src.1 * channels);
    assert_eq!(weight.tiled, tiled::<D::Compute>(isa, walk));
    let element = size_of::<D::Compute>();
    let blocks = walk.tasks(channels, element, if weight.tiled { 2 } else { 1 });
    let of_block = |(n, rows): &(usize, Range<usize>)| MapPart {
        images: *n..n + 1,
        rows: rows.clone(),
        channels: 0..channels,
    };
    // With more weights than pixels, each thread takes some channels of all pixels rather than some pixels.
    let shared = weight.tiled && weight.values.len() > operand.len();
    let parts: Vec<MapPart> = match shared {
        true => walk.shares(element, lanes),
        false => blocks.iter().map(of_block).collect(),
    };
    let mut tilings: Vec<((usize, Range<usize>), Tiling)> = Vec::new();
    for MapPart { images, rows, .. } in parts.iter().filter(|_| weight.tiled) {
        let of = (images.len(), rows.clone());
        if tilings.iter().all(|(known, _)| *known != of) {
            tilings.push((of, walk.tiling(images.len(), rows, lanes)));
        }
    }
    let compute = |out: &SharedSlice<D>, i: usize| {
        let (mut scratch, mut rounded) = (Scratch::default(), Scratch::default());
        let MapPart { images, rows, channels: own } = &parts[i];
        let plane = images.len() * walk.height(rows) * walk.places() * lanes;
        let planes = scratch.get(plane * own.len() / lanes);
        let (runs, first, width) = (walk.runs(images.clone(), rows), own.start, own.len());
        Pack { operand, channels, first, width, runs: &runs, planes, plane }.pack(isa);
        let pixels = images.len() * rows.len() * dst.1;
        let start = (images.start * dst.0 + rows.start) * dst.1 * channels + first;
        let out = out.pointer(start, (pixels - 1) * channels + width);
        // Sums of maps in bf16 are rounded once they are complete, by a pass of its own.
        let (sums, step) = match D::unrounded(out) {
            Some(out) => (out, channels),
            None => (rounded.get(pixels * width).as_mut_ptr(), width),
        };
        // The source of the next part; an upsampled map is small and needs no prefetch.
        let ahead = match parts.get(i + 1) {
            Some(MapPart { images, rows, channels: next }) if walk.upsampling == 1 => {
                let pixel = (images.start * walk.src.0 + rows.start * walk.stride) * walk.src.1;
                Prefetch::of(operand, channels, pixel).of_channels_from(next.start)
            }
            _ => Prefetch::NONE,
        };
        let (ahead, bytes) = (ahead.lines(0, width), size_of::<D>());
        match tilings.iter().find(|((n, of), _)| *n == images.len() && of == rows) {
            Some((_, tiling)) => {
                assert!(tiling.pixels() == pixels && width.is_multiple_of(group));
                let weights = &weight.values[first * winograd::POSITIONS * group..];
                let (tiles, pitch, units) = (0..tiling.len(), plane, 0..width / group);
                let sink = PixelSink { step, ahead, bytes, out: sums };
                WinogradTiles { tiling, tiles, maps: planes, pitch, group, units, weights, sink }
                    .compute(isa);
            }
            None => {
                let weights = &weight.values[..];
                RowTiles { walk, rows, planes, plane, ahead, bytes, weights, out: sums }.compute(isa);
            }
        }
        if D::unrounded(out).is_none() {
            dispatch(isa, Round { sums: rounded.get(pixels * width), width, out, channels });
        }
    };
    let write = |out: &SharedSlice<D>| -> Blocks<D> {
        if shared {
            map(parts.len(), |i| compute(out, i));
        }
        map(blocks.len(), |i| {
            if !shared {
                compute(out, i);
            }
            let (n, rows) = &blocks[i];
            let first = (n * dst.0 + rows.start) * dst.1;
            // SAFETY: all pixels of the rows are initialised, and are this task's alone.
            sink.take(isa, channels, first, unsafe {
                out.slice(first * channels, rows.len() * dst.1 * channels)
            })
        })
    };
    // SAFETY: parts do not overlap and together are all channels of all images' rows, and each is written whole.
    unsafe { write_vec(walk.batch * dst.0 * dst.1 * channels, write) }
}

/// Rounds the sums of some channels of neighbouring pixels, `width` per pixel, and stores them to pixels of `channels`.
struct Round<'a, D: Storage> {
    sums: &'a [D::Compute],
    width: usize,
    /// The first of those channels of the first pixel.
    out: *mut D,
    channels: usize,
}

impl<D: Storage> Kernel<D::Compute> for Round<'_, D> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = D::Compute>>(self) {
        assert!(self.width.is_multiple_of(S::LANES));
        for (pixel, sums) in self.sums.chunks_exact(self.width).enumerate() {
            for channel in (0..self.width).step_by(S::LANES) {
                // SAFETY: the CPU has S's instructions; `solve` made `out` a pointer to as many pixels.
                unsafe {
                    let sum = S::load(sums.as_ptr().add(channel));
                    D::store::<S>(self.out.add(pixel * self.channels + channel), sum);
                }
            }
        }
    }
}

/// Stores the sums of tiles: some channels of neighbouring pixels.
struct PixelSink<T> {
    /// Elements from one pixel to the next.
    step: usize,
    ahead: PixelLines,
    /// Bytes per element of the pixels ahead.
    bytes: usize,
    /// The first of those channels of the first pixel.
    out: *mut T,
}

impl<T: Element> TileSink<T> for PixelSink<T> {
    const NARROW_GROUPS: bool = false;

    #[inline(always)]
    fn meanwhile(&self) -> impl FnMut() {
        || ()
    }

    #[inline(always)]
    fn expect<S: Simd<T = T>>(&self, pixel: usize, vector: usize) {
        let channel = vector * S::LANES;
        prefetch_strided(self.out.wrapping_add(pixel * self.step + channel), 1, 0);
        self.ahead.prefetch_line(pixel..pixel + 1, channel * self.bytes);
    }

    #[inline(always)]
    unsafe fn put<S: Simd<T = T>>(&self, pixel: usize, vector: usize, sum: S::V) {
        // SAFETY: the CPU has S's instructions; `solve` asserted that the tiling's pixels exist, and each has all vectors.
        unsafe { S::store(self.out.add(pixel * self.step + vector * S::LANES), sum) };
    }
}

/// Some rows of one image.
struct RowTiles<'a, T: Element> {
    walk: &'a Walk,
    rows: &'a Range<usize>,
    planes: &'a [T],
    plane: usize,
    ahead: PixelLines,
    /// Bytes per element of the pixels ahead.
    bytes: usize,
    weights: &'a [T],
    /// The first element of the first row.
    out: *mut T,
}

impl<T: Element> RowTiles<'_, T> {
    fn compute(&self, isa: Isa) {
        let Walk { group, stride, .. } = *self.walk;
        let spanning = group < lanes::<T>(isa);
        match (spanning, group, stride) {
            (true, 4, 1) => self.tiles::<4, 1>(isa),
            (true, 4, _) => self.tiles::<4, 2>(isa),
            (true, _, 1) => self.tiles::<8, 1>(isa),
            (true, _, _) => self.tiles::<8, 2>(isa),
            (false, _, 1) => self.tiles::<0, 1>(isa),
            (false, _, _) => self.tiles::<0, 2>(isa),
        }
    }

    /// In tiles of as many neighbours as fit the registers beside three weights and a source pixel, and of those the size
    /// that computes the fewest pixels twice. Each size is a function of its own, which keeps functions small: the time to
    /// compile one grows faster than its size.
    fn tiles<const DEPTH: usize, const STRIDE: usize>(&self, isa: Isa) {
        let (_, tile) = lanes_and_tile::<T>(isa);
        let width = self.walk.dst.1;
        let repeated = |m: &usize| (width.div_ceil(*m) * (2 * *m + 1), *m);
        let compiled = |m: &usize| *m <= width && is_compiled(*m, tile, size_of::<T>());
        match [16, 14, 8, 7, 4, 1].into_iter().filter(compiled).min_by_key(repeated) {
            Some(16) => dispatch(isa, Tiles::<T, DEPTH, STRIDE, 16, 1>(self)),
            Some(14) => dispatch(isa, Tiles::<T, DEPTH, STRIDE, 14, 1>(self)),
            Some(8) => dispatch(isa, Tiles::<T, DEPTH, STRIDE, 8, 1>(self)),
            Some(7) if width == 7 => dispatch(isa, Tiles::<T, DEPTH, STRIDE, 7, 2>(self)),
            Some(7) => dispatch(isa, Tiles::<T, DEPTH, STRIDE, 7, 1>(self)),
            Some(4) => dispatch(isa, Tiles::<T, DEPTH, STRIDE, 4, 1>(self)),
            _ => dispatch(isa, Tiles::<T, DEPTH, STRIDE, 1, 1>(self)),
        }
    }
}

/// Whether tiles of `m` neighbours are compiled for an instruction set whose register tiles have `tile` pixels, and elements
/// of `bytes`: sets and types that matter less are compiled in fewer sizes.
const fn is_compiled(m: usize, tile: usize, bytes: usize) -> bool {
    match m {
        16 | 14 | 7 => tile >= 14 && bytes == 4,
        8 => tile >= 6 && bytes == 4,
        _ => true,
    }
}

/// Tiles of `M` neighbours in each of `ROWS` rows, with groups of `DEPTH` channels, or 0 for groups of whole vectors.
struct Tiles<'a, T: Element, const DEPTH: usize, const STRIDE: usize, const M: usize, const ROWS: usize>(
    &'a RowTiles<'a, T>,
);

impl<T: Element, const DEPTH: usize, const STRIDE: usize, const M: usize, const ROWS: usize> Kernel<T>
    for Tiles<'_, T, DEPTH, STRIDE, M, ROWS>
{
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = T>>(self) {
        if const { DEPTH > 0 && DEPTH >= S::LANES || !is_compiled(M, S::TILE, size_of::<S::T>()) } {
            unreachable!("groups that fill vectors have no depth, and `tiles` chooses compiled sizes");
        }
        let RowTiles { walk, rows, planes, plane, weights, .. } = *self.0;
        let (sources, depth) = sources(walk.group, S::LANES);
        assert!(walk.height(rows) * walk.places() * S::LANES <= plane && M <= walk.dst.1);
        assert!(walk.channels / S::LANES * plane <= planes.len() && walk.stride == STRIDE);
        assert!(walk.channels * sources * depth * 9 == weights.len());
        // SAFETY: the CPU has S's instructions; sizes are as asserted.
        unsafe { self.0.vectors::<S, DEPTH, STRIDE, M, ROWS>() }
    }
}

impl<T: Element> RowTiles<'_, T> {
    /// Tiles of `M` neighbours in each of `ROWS` rows: two short rows at once, as too few sums would wait for each other.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions; sizes are those that `with_simd` asserts.
    #[inline(always)]
    unsafe fn vectors<
        S: Simd<T = T>,
        const DEPTH: usize,
        const STRIDE: usize,
        const M: usize,
        const ROWS: usize,
    >(
        &self,
    ) {
        let Walk { group, channels, .. } = *self.walk;
        let (sources, depth) = sources(group, S::LANES);
        let weights = sources * depth * 9 * S::LANES;
        // SAFETY: the CPU has S's instructions.
        let mut lane_indices = [unsafe { group_index::<S, DEPTH>(0) }; 8];
        for c in 1..8 {
            // SAFETY: as above.
            lane_indices[c] = unsafe { group_index::<S, DEPTH>(c) };
        }
        for vector in 0..channels / S::LANES {
            let source = vector * S::LANES / group.max(S::LANES) * sources;
            // SAFETY: passed on; all these exist.
            unsafe {
                let planes = self.planes.as_ptr().add(source * self.plane);
                let weights = (self.weights.as_ptr().add(vector * weights), sources);
                let mut row = 0;
                while row + ROWS <= self.rows.len() {
                    self.row::<S, DEPTH, STRIDE, M, ROWS>(vector, row, planes, weights, &lane_indices);
                    row += ROWS;
                }
                if const { ROWS > 1 } && row < self.rows.len() {
                    self.row::<S, DEPTH, STRIDE, M, 1>(vector, row, planes, weights, &lane_indices);
                }
            }
        }
    }

    /// `ROWS` rows from row `i` of the task on.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions; the rows and the vector exist.
    #[inline(always)]
    unsafe fn row<
        S: Simd<T = T>,
        const DEPTH: usize,
        const STRIDE: usize,
        const M: usize,
        const ROWS: usize,
    >(
        &self,
        vector: usize,
        i: usize,
        planes: *const T,
        weights: (*const T, usize),
        lane_indices: &[S::Index; 8],
    ) {
        let Walk { channels, dst, src, .. } = *self.walk;
        let mut skip = [[false; 3]; ROWS];
        for row in 0..ROWS {
            let top = self.walk.top(self.rows.start + i + row);
            for ky in 0..3 {
                skip[row][ky] = self.walk.row(top + ky as isize).is_none();
            }
        }
        for x in (0..dst.1).step_by(M) {
            // The last tile starts early enough to be whole; what it computes twice has the same bits.
            let x = x.min(dst.1 - M);
            // SAFETY: a row's planes hold (M - 1) · STRIDE + 3 places from there on in each of three rows.
            unsafe {
                let planes = planes.add((i * STRIDE * self.walk.places() + x * STRIDE) * S::LANES);
                let out = self.out.add((i * dst.1 + x) * channels + vector * S::LANES);
                for row in 0..ROWS {
                    prefetch_strided(out.add(row * dst.1 * channels), M, channels);
                }
                for row in 0..ROWS * STRIDE {
                    let next = (i * STRIDE + row) * src.1 + x * STRIDE;
                    let byte = vector * S::LANES * self.bytes;
                    self.ahead.prefetch_line(next..next + M * STRIDE, byte);
                }
                self.tile::<S, DEPTH, STRIDE, M, ROWS>(planes, weights, &skip, lane_indices, out);
            }
        }
    }

    /// `M` neighbours in each of `ROWS` rows times one vector.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions; the places, weights and output pixels exist.
    #[inline(always)]
    unsafe fn tile<
        S: Simd<T = T>,
        const DEPTH: usize,
        const STRIDE: usize,
        const M: usize,
        const ROWS: usize,
    >(
        &self,
        planes: *const T,
        (weights, sources): (*const T, usize),
        skip: &[[bool; 3]; ROWS],
        lane_indices: &[S::Index; 8],
        out: *mut T,
    ) {
        let depth = if DEPTH == 0 { S::LANES } else { DEPTH };
        let pitch = self.walk.places() * S::LANES;
        // SAFETY: the function's contract.
        unsafe {
            // Two named arrays: of one array for both rows, parts would be kept in memory.
            let (mut acc, mut below) = ([S::zero(); M], [S::zero(); M]);
            let next_row = STRIDE * pitch;
            for source in 0..sources {
                for ky in 0..3 {
                    let line = planes.add(source * self.plane + ky * pitch);
                    let weights = weights.add((source * 3 + ky) * depth * 3 * S::LANES);
                    let (first, second) = (!skip[0][ky], ROWS == 2 && !skip[ROWS - 1][ky]);
                    for c in 0..depth {
                        let mut w = [S::zero(); 3];
                        for kx in 0..3 {
                            w[kx] = S::load(weights.add((c * 3 + kx) * S::LANES));
                        }
                        if first {
                            fma_row3!(M, STRIDE, S::fma, acc, w, |j| {
                                bring::<S, DEPTH>(line.add(j * S::LANES), c, lane_indices)
                            });
                        }
                        if const { ROWS == 2 } && second {
                            fma_row3!(M, STRIDE, S::fma, below, w, |j| {
                                bring::<S, DEPTH>(line.add(next_row + j * S::LANES), c, lane_indices)
                            });
                        }
                    }
                }
            }
            for m in 0..M {
                S::store(out.add(m * self.walk.channels), acc[m]);
            }
            if const { ROWS == 2 } {
                for m in 0..M {
                    S::store(out.add((self.walk.dst.1 + m) * self.walk.channels), below[m]);
                }
            }
        }
    }
}
