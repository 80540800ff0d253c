//! Outputs in blocks of pixels, for kernels that have no blocks of their own.

use super::block_sink::{BlockSink, Blocks};
use crate::simd::dispatch::Isa;
use crate::simd::traits::Storage;
use crate::threads::shared_slice::{SharedSlice, write_vec};
use rayon::prelude::*;

/// Pixels per block.
const BLOCK: usize = 128;

/// Passes `out` through a sink, block by block.
pub fn finished<D: Storage>(
    isa: Isa,
    mut out: Vec<D>,
    channels: usize,
    sink: BlockSink<D>,
) -> (Vec<D>, Blocks<D>) {
    let blocks = out.par_chunks_mut((BLOCK * channels).max(1)).enumerate();
    let results = blocks.map(|(i, block)| sink.take(isa, channels, i * BLOCK, block)).collect();
    (out, results)
}

/// Returns an output (pixels, channels), which `make` writes in parallel, block by block, and the results of `make` in
/// order. `make` is called with a block's first pixel, its number of pixels and a pointer to them.
///
/// # Safety
/// `make` initialises all elements of each block.
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
    // SAFETY: the blocks together are all pixels, and the caller promises that each is initialised.
    unsafe { write_vec(pixels * channels, write) }
}
