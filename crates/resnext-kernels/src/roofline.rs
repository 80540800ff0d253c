//! Peak arithmetic: multiply-adds on registers alone.

use crate::infer::dot_product::DotProduct;
use crate::infer::precision::{DotKernel, Precision};
use crate::simd::traits::{MAX_LANES, Simd};

/// Runs twelve independent chains of `steps` multiply-adds on the calling thread, and returns the number of operations,
/// counting a multiply-add as two.
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
    let mut operations = 0;
    precision.dispatch(Chains { steps, operations: &mut operations });
    operations
}
