//! Results in blocks of pixels, where a kernel leaves no blocks behind.

use crate::simd::dispatch::{Isa, run};
use crate::simd::traits::{Kernel, Simd, Stored};
use crate::threads::shared_slice::{SharedMut, written};
use rayon::prelude::*;

/// Pixels of a block.
const BLOCK: usize = 128;

/// What `finish` makes of each block of `out`, in order.
pub fn finished<D: Stored, R: Send>(
    mut out: Vec<D>,
    channels: usize,
    finish: impl Fn(usize, &mut [D]) -> R + Sync,
) -> (Vec<D>, Vec<R>) {
    let blocks = out.par_chunks_mut((BLOCK * channels).max(1)).enumerate();
    let results = blocks.map(|(i, block)| finish(i * BLOCK, block)).collect();
    (out, results)
}

/// `len` pixels of `channels` that `make` writes block by block, with what it returns of each, in order: it is given
/// the number of the block's first pixel, that of its pixels, and where they go.
///
/// # Safety
/// `make` writes all of each block.
pub unsafe fn blocks<D: Stored, R: Send>(
    pixels: usize,
    channels: usize,
    make: impl Fn(usize, usize, *mut D) -> R + Sync,
) -> (Vec<D>, Vec<R>) {
    let write = |out: &SharedMut<D>| {
        let block = |i: usize| {
            let (first, count) = (i * BLOCK, BLOCK.min(pixels - i * BLOCK));
            make(first, count, out.pointer(first * channels, count * channels))
        };
        (0..pixels.div_ceil(BLOCK)).into_par_iter().map(block).collect()
    };
    // SAFETY: blocks together are all pixels, and the caller promises that each is written.
    unsafe { written(pixels * channels, write) }
}

/// `sums += values`, of one length.
pub fn add<D: Stored>(isa: Isa, sums: &mut [D], values: &[D]) {
    struct Add<'a, D>(&'a mut [D], &'a [D]);
    impl<D: Stored> Kernel<D::Wide> for Add<'_, D> {
        #[inline(always)]
        unsafe fn run<S: Simd<T = D::Wide>>(self) {
            let Add(sums, values) = self;
            let whole = sums.len() / S::LANES * S::LANES;
            for i in (0..whole).step_by(S::LANES) {
                // SAFETY: the CPU has S's instructions; the vector is whole in both.
                unsafe {
                    let (sums, values) = (sums.as_mut_ptr().add(i), values.as_ptr().add(i));
                    D::store::<S>(sums, S::add(D::load::<S>(sums), D::load::<S>(values)));
                }
            }
            for (sum, value) in sums[whole..].iter_mut().zip(&values[whole..]) {
                let mut wide = sum.wide();
                wide += value.wide();
                *sum = D::rounded(wide);
            }
        }
    }
    assert_eq!(sums.len(), values.len());
    run(isa, Add(sums, values));
}
