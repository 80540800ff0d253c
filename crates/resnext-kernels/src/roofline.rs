//! Peak arithmetic: multiply-adds on registers alone.

use crate::infer::dot_product::DotProduct;
use crate::infer::precision::{DotKernel, Precision};
use crate::memory::aligned::AlignedBuffer;
use crate::simd::amx::{Amx, BLOCK, TILE, TileOperands, TileShape, TileUnit};
use crate::simd::dispatch::Isa;
use crate::simd::traits::{MAX_LANES, Simd};

/// Runs twelve independent chains of `steps` multiply-adds on the calling thread, or as many operations by AMX's tiles, and
/// returns the number of operations, counting a multiply-add as two.
pub fn fma_chains(precision: Precision, steps: usize) -> u64 {
    struct Chains<'a> {
        steps: usize,
        operations: &'a mut u64,
    }
    impl DotKernel for Chains<'_> {
        #[inline(always)]
        unsafe fn with_dot<W: DotProduct>(self) {
            // SAFETY: the CPU has W's instructions; the buffers are longer than the widest vector.
            unsafe {
                let (one, tiny) = (1f32, [1e-9f32; MAX_LANES]);
                let (a, b) = (W::S::splat(&one), W::S::load(tiny.as_ptr()));
                let mut acc = [W::S::zero(); 12];
                for _ in 0..self.steps {
                    for chain in &mut acc {
                        *chain = W::dot(a, b, *chain);
                    }
                }
                let sum = acc.into_iter().fold(W::S::zero(), |sum, chain| W::S::add(sum, chain));
                let mut values = [0f32; MAX_LANES];
                W::S::store(values.as_mut_ptr(), sum);
                std::hint::black_box(values);
                *self.operations = (self.steps * 12 * W::S::LANES * 2 * W::CHANNELS) as u64;
            }
        }
    }
    if precision.isa() == Isa::Amx && precision.channels() > 1 {
        return tile_products(precision, steps);
    }
    let mut operations = 0;
    precision.dispatch(Chains { steps, operations: &mut operations });
    operations
}

/// Multiplies tiles that lie in the first-level cache, for about as long as `steps` steps of twelve chains take.
fn tile_products(precision: Precision, steps: usize) -> u64 {
    // Words of channels that follow each other. Pixels and weights are the same 8 KB.
    const WORDS: usize = 4 * TILE;
    let zeros = AlignedBuffer::zeros(BLOCK * WORDS);
    let mut unit = Amx::default();
    unit.configure(TileShape {
        pixels: [TILE; 2],
        words: TILE,
        int8: precision.channels() == 4,
        streams: false,
    });
    unit.start([&[0.0; TILE]; 2]);
    let per_block = BLOCK * BLOCK * WORDS;
    // Eight times as many, as each takes an eighth of the time.
    let blocks = (8 * 12 * steps * TILE).div_ceil(per_block);
    for _ in 0..blocks {
        let mut operands = TileOperands {
            pixels: [zeros.as_ptr(), zeros[TILE * WORDS..].as_ptr()],
            pixel_stride: WORDS,
            weights: [zeros.as_ptr(), zeros[TILE..].as_ptr()],
            weight_stride: BLOCK,
        };
        // SAFETY: there are as many pixels, weights and words.
        unsafe { unit.accumulate(&mut operands, WORDS / TILE) };
    }
    (blocks * per_block * 2 * precision.channels()) as u64
}
