//! Both gradients of a 1×1 convolution in one pass over its pixels.
//!
//! Both read the output's gradient, which batch norm's gradient computes from two maps. Where a block's planes, the matrix
//! and the weight's sums fit a core's cache together, it is packed once.

use super::block_sink::{BlockSink, Blocks};
use super::gemm::{self, PackedMatrix};
use super::gemm_wgrad::{self, Tile, merged};
use super::im2col::pixel_runs;
use super::operand::Operand;
use super::packing::{Pack, PixelRun, Prefetch, plane_len};
use crate::memory::scratch::Scratch;
use crate::simd::dispatch::{Isa, lanes_and_tile};
use crate::simd::traits::{Element, Storage};
use crate::threads::shared_slice::{SharedSlice, write_vec};
use rayon::prelude::*;

/// Parts of the pixels, each with sums of its own: a fixed number, for the same bits on any machine.
const PARTS: usize = 16;
/// Bytes of a core's cache that planes, matrix and sums may use.
const BYTES: usize = 640 << 10;

/// The input of a 1×1 convolution: pixels of an operand, `stride` apart in maps of `size` (height, width).
#[derive(Clone, Copy)]
pub struct Input<'a, D: Storage> {
    pub operand: Operand<'a, D>,
    pub channels: usize,
    pub size: (usize, usize),
    pub stride: usize,
}

fn block(tile: usize) -> usize {
    gemm_wgrad::BLOCK / tile * tile
}

/// Whether one pass for both gradients is worth it: its planes, matrix and sums fit a core's cache.
pub fn supports<T: Element>(isa: Isa, inputs: usize, outputs: usize) -> bool {
    let (_, tile) = lanes_and_tile::<T>(isa);
    (block(tile) * (inputs + outputs) + 2 * inputs * outputs) * size_of::<T>() <= BYTES
}

/// The gradient of the pixels read (pixels, inputs), what `sink` computed from each of its blocks in order, and the gradient
/// of the weight (outputs, inputs). `matrix` is the weight from outputs to inputs.
pub fn gradients<D: Storage>(
    isa: Isa,
    input: Input<D>,
    gradient: Operand<D>,
    matrix: &PackedMatrix<D::Compute>,
    pixels: usize,
    sink: BlockSink<D>,
) -> (Vec<D>, Blocks<D>, Vec<D::Compute>) {
    let (lanes, tile) = lanes_and_tile::<D::Compute>(isa);
    let (inputs, outputs, block) = (matrix.width(), matrix.depth(), block(tile));
    let blocks = pixels.div_ceil(block);
    let parts = PARTS.min(blocks).max(1);
    let plane = plane_len::<D::Compute>(block, lanes);
    let write = |out: &SharedSlice<D>| -> Vec<(Blocks<D>, Vec<D::Compute>)> {
        let part = |scratch: &mut Scratch<D::Compute>, part: usize| {
            let mut sums = vec![D::Compute::ZERO; inputs * outputs];
            let (x, g) = scratch.get(plane * (inputs + outputs) / lanes).split_at_mut(plane * inputs / lanes);
            let task = |i: usize| {
                let (first, count) = (i * block, block.min(pixels - i * block));
                let runs = [PixelRun { to: 0, count, to_step: 1, from: Some((first, 1)) }];
                let (operand, channels) = (gradient, outputs);
                Pack { operand, channels, first: 0, width: channels, runs: &runs, planes: g, plane }
                    .pack(isa);
                let to = out.pointer(first * inputs, count * inputs);
                let last = i + 1 == blocks * (part + 1) / parts;
                let ahead = |operand, channels| match last {
                    true => Prefetch::NONE,
                    false => Prefetch::of(operand, channels, first + block),
                };
                gemm::panels(isa, (g, plane), ahead(gradient, outputs), matrix, to, count);
                // SAFETY: the panels have written the whole block, which is this task's alone.
                let result =
                    sink.take(isa, inputs, first, unsafe { out.slice(first * inputs, count * inputs) });
                let Input { operand, channels, size, stride } = input;
                let runs = pixel_runs(size, stride, first, count);
                Pack { operand, channels, first: 0, width: channels, runs: &runs, planes: x, plane }
                    .pack(isa);
                let next = if stride == 1 { ahead(operand, channels) } else { Prefetch::NONE };
                let ahead = ([next, Prefetch::NONE], (0, 0));
                gemm_wgrad::add(isa, (x, inputs), (g, outputs), plane, count, ahead, &mut sums);
                result
            };
            let results = (blocks * part / parts..blocks * (part + 1) / parts).map(task).collect();
            (results, sums)
        };
        (0..parts).into_par_iter().map_init(Scratch::default, part).collect()
    };
    // SAFETY: the parts' blocks together are all pixels, and panels all channels.
    let (out, parts) = unsafe { write_vec(pixels * inputs, write) };
    let (results, sums): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let parts = sums.iter().map(Vec::as_slice).collect();
    let weight = merged(lanes, outputs, inputs, &[Tile { read: 0..inputs, written: 0..outputs, parts }]);
    (out, results.into_iter().flatten().collect(), weight)
}
