//! Multiply-adds with no memory in the way.

use super::simd::{Isa, Kernel, Simd, run};

/// Runs twelve independent chains of `steps` multiply-adds, and says how many operations these were.
pub(crate) fn fma_chains(isa: Isa, steps: usize) -> u64 {
    struct Chains<'a> {
        steps: usize,
        operations: &'a mut u64,
    }
    impl Kernel<f32> for Chains<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd<T = f32>>(self) {
            // SAFETY: the CPU has S's instructions; the buffers are longer than the widest vector.
            unsafe {
                let (one, tiny) = (1f32, [1e-9f32; 16]);
                let (a, b) = (S::splat(&one), S::load(tiny.as_ptr()));
                let mut acc = [S::zero(); 12];
                for _ in 0..self.steps {
                    for chain in &mut acc {
                        *chain = S::fma(a, b, *chain);
                    }
                }
                let sum = acc.into_iter().fold(S::zero(), |sum, chain| S::add(sum, chain));
                let mut values = [0f32; 16];
                S::store(values.as_mut_ptr(), sum);
                std::hint::black_box(values);
                *self.operations = (self.steps * 12 * S::LANES * 2) as u64;
            }
        }
    }
    let mut operations = 0;
    run(isa, Chains { steps, operations: &mut operations });
    operations
}
