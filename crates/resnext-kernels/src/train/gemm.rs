//! The matrix product (pixels, channels) × (channels, outputs): 1×1 convolutions and the gradient of their input, and dense
//! kernels of any size over im2col patches.
//!
//! A task packs a block of pixels into planes ([`super::packing`]), which stay in its core's cache, and multiplies it with
//! one panel of two vectors of output channels after the other. The block then goes through the sink, still in the cache.

use super::block_sink::{BlockSink, Blocks};
use super::im2col::{Patches, pixel_runs};
use super::operand::Operand;
use super::packing::{CACHE_LINE, Pack, PixelLines, Prefetch, plane_len};
use crate::memory::prefetch::{CacheLevel, prefetch, prefetch_strided};
use crate::memory::scratch::Scratch;
use crate::shape::ConvShape;
use crate::simd::dispatch::{Isa, dispatch, lanes_and_tile};
use crate::simd::traits::{Element, Kernel, Simd, Storage};
use crate::threads::shared_slice::{SharedSlice, write_vec};
use rayon::prelude::*;
use std::hint::black_box;

/// The packed matrix.
#[derive(Debug)]
pub struct PackedMatrix<T> {
    /// One panel after the other, `[depth][vectors · LANES]` each.
    values: Vec<T>,
    depth: usize,
    width: usize,
}

impl<T: Element> PackedMatrix<T> {
    /// Packs `at(output channel, input channel)`. The depth is padded with zeros to whole vectors.
    pub fn pack(
        isa: Isa,
        width: usize,
        inputs: usize,
        at: impl Fn(usize, usize) -> T + Sync,
    ) -> PackedMatrix<T> {
        let (lanes, _) = lanes_and_tile::<T>(isa);
        assert!(width.is_multiple_of(lanes));
        let depth = inputs.next_multiple_of(lanes);
        let mut values = vec![T::ZERO; depth * width];
        values.par_chunks_mut((depth * 2 * lanes).max(1)).enumerate().for_each(|(panel, values)| {
            let columns = values.len() / depth;
            // In blocks, so that both source and destination stay in the first-level cache.
            for first in (0..inputs).step_by(16) {
                for k in 0..columns {
                    for c in first..inputs.min(first + 16) {
                        values[c * columns + k] = at(panel * 2 * lanes + k, c);
                    }
                }
            }
        });
        PackedMatrix { values, depth, width }
    }

    /// Output channels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Input channels, padded to whole vectors.
    pub fn depth(&self) -> usize {
        self.depth
    }
}

/// The rows of the product, one per output pixel.
#[derive(Clone, Copy)]
pub enum GemmRows<'a, D: Storage> {
    /// Pixels of an operand, `stride` apart in maps of `size`, height and width.
    Pixels { operand: Operand<'a, D>, size: (usize, usize), stride: usize },
    /// The patch of the input that each output pixel of a dense convolution reads: `[kernel position][channel]`.
    Patches { x: &'a [D], shape: &'a ConvShape },
}

/// Bytes of packed pixels per task: with a panel, about half of a core's cache.
const BLOCK_BYTES: usize = 448 << 10;

/// Pixels per task. It depends on the sizes alone, because sinks sum over these blocks.
fn block(pixels: usize, tile: usize, pixel_bytes: usize) -> usize {
    let cached = BLOCK_BYTES / pixel_bytes.max(1) / tile;
    let shared = pixels.div_ceil(16).div_ceil(tile);
    cached.min(shared).clamp(1, 16) * tile
}

/// The product of `pixels` rows with `matrix`, (pixels, width), and what `sink` computed from each block, in order.
pub fn gemm<D: Storage>(
    isa: Isa,
    rows: GemmRows<D>,
    pixels: usize,
    matrix: &PackedMatrix<D::Compute>,
    sink: BlockSink<D>,
) -> (Vec<D>, Blocks<D>) {
    let (lanes, tile) = lanes_and_tile::<D::Compute>(isa);
    let (depth, width) = (matrix.depth, matrix.width);
    let block = block(pixels, tile, depth * size_of::<D::Compute>());
    let plane = plane_len::<D::Compute>(block, lanes);
    let write = |out: &SharedSlice<D>| -> Blocks<D> {
        let task = |scratch: &mut Scratch<D::Compute>, first: usize| {
            let count = block.min(pixels - first);
            let planes = scratch.get(plane * depth / lanes);
            rows.fill(isa, first, count, planes, plane, depth);
            let to = out.pointer(first * width, count * width);
            panels(isa, (planes, plane), rows.ahead(first + block, depth), matrix, to, count);
            // SAFETY: the panels have written the whole block, which is this task's alone.
            sink.take(isa, width, first, unsafe { out.slice(first * width, count * width) })
        };
        (0..pixels.div_ceil(block))
            .into_par_iter()
            .map_init(Scratch::default, |scratch, i| task(scratch, i * block))
            .collect()
    };
    // SAFETY: tasks write blocks that together are all pixels, and panels all channels.
    unsafe { write_vec(pixels * width, write) }
}

/// Multiplies `count` pixels in planes, which hold whole tiles, with all panels of `matrix`, and writes them to `out`, which
/// has room for them. Meanwhile prefetches as many pixels `ahead`.
pub fn panels<D: Storage>(
    isa: Isa,
    (planes, plane): (&[D::Compute], usize),
    ahead: Prefetch<D>,
    matrix: &PackedMatrix<D::Compute>,
    out: *mut D,
    count: usize,
) {
    let (lanes, _) = lanes_and_tile::<D::Compute>(isa);
    let PackedMatrix { values, depth, width } = matrix;
    let (depth, width) = (*depth, *width);
    let len = (depth * 2 * lanes).max(1);
    for (i, panel) in values.chunks(len).enumerate() {
        let column = i * 2 * lanes;
        let ahead = if i == 0 { ahead.lines(0, depth) } else { PixelLines::NONE };
        let next = values.get((i + 1) * len..).map_or(&[][..], |rest| &rest[..len.min(rest.len())]);
        dispatch(isa, GemmTiles { planes, plane, ahead, panel, next, depth, out, column, width, count });
    }
}

impl<D: Storage> GemmRows<'_, D> {
    /// A prefetch of the pixels from `first` on, if they are read in memory order.
    fn ahead(&self, first: usize, channels: usize) -> Prefetch<'_, D> {
        match *self {
            GemmRows::Pixels { operand, stride: 1, .. } => Prefetch::of(operand, channels, first),
            _ => Prefetch::NONE,
        }
    }

    /// Packs `count` pixels from `first` on into planes, with zeros after their channels.
    fn fill(
        &self,
        isa: Isa,
        first: usize,
        count: usize,
        planes: &mut [D::Compute],
        plane: usize,
        depth: usize,
    ) {
        match *self {
            GemmRows::Pixels { operand, size, stride } => {
                let runs = pixel_runs(size, stride, first, count);
                Pack { operand, channels: depth, first: 0, width: depth, runs: &runs, planes, plane }
                    .pack(isa);
            }
            GemmRows::Patches { x, shape } => {
                dispatch(isa, Patches { x, shape, first, count, planes, plane });
            }
        }
    }
}

/// A block of pixels times a panel.
struct GemmTiles<'a, D: Storage> {
    planes: &'a [D::Compute],
    plane: usize,
    ahead: PixelLines,
    panel: &'a [D::Compute],
    /// The panel after it, to be prefetched.
    next: &'a [D::Compute],
    depth: usize,
    /// The block's output pixels, `width` channels each, of which the panel writes those from `column` on.
    out: *mut D,
    column: usize,
    width: usize,
    count: usize,
}

impl<D: Storage> Kernel<D::Compute> for GemmTiles<'_, D> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = D::Compute>>(self) {
        let pixels = self.count.next_multiple_of(S::TILE);
        let planes = self.depth / S::LANES;
        assert!(pixels * S::LANES <= self.plane && planes * self.plane <= self.planes.len());
        assert!(matches!(S::TILE, 14 | 6 | 4));
        let vectors = self.panel.len() / self.depth / S::LANES;
        for first in (0..self.count).step_by(S::TILE) {
            // SAFETY: the CPU has S's instructions; the planes hold whole tiles, as asserted.
            unsafe {
                if const { S::TILE == 14 } {
                    match vectors {
                        1 => self.tile::<S, 14, 1>(first),
                        _ => self.tile::<S, 14, 2>(first),
                    }
                } else if const { S::TILE == 6 } {
                    match vectors {
                        1 => self.tile::<S, 6, 1>(first),
                        _ => self.tile::<S, 6, 2>(first),
                    }
                } else {
                    match vectors {
                        1 => self.tile::<S, 4, 1>(first),
                        _ => self.tile::<S, 4, 2>(first),
                    }
                }
            }
        }
    }
}

impl<D: Storage> GemmTiles<'_, D> {
    /// # Safety
    /// The CPU has `S`'s instructions, planes hold `M` pixels from `first` on, the panel has `V` vectors.
    #[inline(always)]
    unsafe fn tile<S: Simd<T = D::Compute>, const M: usize, const V: usize>(&self, first: usize) {
        // SAFETY: reads `depth` channels of M pixels and the panel; writes pixels below `count` only.
        unsafe {
            let mut acc = [[S::zero(); V]; M];
            let mut weights = self.panel.as_ptr();
            let to = self.out.wrapping_add(first * self.width + self.column);
            for v in 0..V {
                prefetch_strided(to.wrapping_add(v * S::LANES), M, self.width);
            }
            let steps = self.depth / S::LANES;
            // Lines of the next panel per step, so that the tiles together prefetch all of it.
            let lines = size_of_val(self.next).div_ceil(CACHE_LINE);
            let pace = lines.div_ceil((self.count.div_ceil(M) * steps).max(1));
            for k in 0..steps {
                let pixels = self.planes.as_ptr().add(k * self.plane + first * S::LANES);
                let byte = k * S::LANES * size_of::<D>();
                if byte.is_multiple_of(CACHE_LINE) {
                    self.ahead.prefetch_line(first..first + M, byte);
                }
                let step = first / M * steps + k;
                for line in step * pace..(step + 1) * pace {
                    prefetch(self.next.as_ptr().wrapping_byte_add(line * CACHE_LINE), CacheLevel::Second);
                }
                for c in 0..S::LANES {
                    let mut w = [S::zero(); V];
                    for v in 0..V {
                        w[v] = S::load(weights.add(v * S::LANES));
                    }
                    weights = weights.add(V * S::LANES);
                    for m in 0..M {
                        let x = S::splat(pixels.add(m * S::LANES + c));
                        for v in 0..V {
                            acc[m][v] = S::fma(x, w[v], acc[m][v]);
                        }
                    }
                }
            }
            if const { size_of::<D>() == size_of::<D::Compute>() } {
                for m in 0..M {
                    if first + m < self.count {
                        for v in 0..V {
                            D::store::<S>(to.add(m * self.width + v * S::LANES), acc[m][v]);
                        }
                    }
                }
                return;
            }
            // A loop that rounds is too long to be unrolled, and an array that a loop indexes is not kept in registers. So
            // the sums are first copied to memory that the compiler knows nothing about.
            let mut copy = [[S::zero(); V]; M];
            let sums = black_box(copy.as_mut_ptr().cast::<S::V>());
            for m in 0..M {
                for v in 0..V {
                    sums.add(m * V + v).write(acc[m][v]);
                }
            }
            for m in 0..M.min(self.count - first) {
                for v in 0..V {
                    D::store::<S>(to.add(m * self.width + v * S::LANES), *sums.add(m * V + v));
                }
            }
        }
    }
}
