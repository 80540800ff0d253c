//! Results in blocks of pixels, where a kernel leaves no blocks behind.

use super::block_sink::{BlockSink, BlockSums};
use crate::simd::dispatch::Isa;
use crate::simd::traits::Storage;
use crate::threads::shared_slice::{SharedSlice, write_vec};
use rayon::prelude::*;

/// Pixels of a block.
const BLOCK: usize = 128;

/// Hands `out` to a sink, block by block.
pub fn finished<D: Storage>(
    isa: Isa,
    mut out: Vec<D>,
    channels: usize,
    sink: BlockSink<D>,
) -> (Vec<D>, Vec<BlockSums<D::Compute>>) {
    let blocks = out.par_chunks_mut((BLOCK * channels).max(1)).enumerate();
    let results = blocks.map(|(i, block)| sink.take(isa, channels, i * BLOCK, block)).collect();
    (out, results)
}

/// `len` pixels of `channels` that `make` writes block by block, with what it returns of each, in order: it is given
/// the number of the block's first pixel, that of its pixels, and where they go.
///
/// # Safety
/// `make` writes all of each block.
pub unsafe fn blocks<D: Storage, R: Send>(
    pixels: usize,
    channels: usize,
    make: impl Fn(usize, usize, *mut D) -> R + Sync,
) -> (Vec<D>, Vec<R>) {
    let write = |out: &SharedSlice<D>| {
        let block = |i: usize| {
            let (first, count) = (i * BLOCK, BLOCK.min(pixels - i * BLOCK));
            make(first, count, out.pointer(first * channels, count * channels))
        };
        (0..pixels.div_ceil(BLOCK)).into_par_iter().map(block).collect()
    };
    // SAFETY: blocks together are all pixels, and the caller promises that each is written.
    unsafe { write_vec(pixels * channels, write) }
}
