//! What the machine at hand can do at most: the yardsticks of a bench.

use crate::kernels::{Isa, Words, fma_chains};
use candle_core::DType;
use rayon::prelude::*;
use std::time::Instant;

/// Floating-point operations a second, fused multiply-adds counted as two, that all threads of the current pool
/// reach together with nothing but registers, on inputs of `dtype`, f32 or bf16; `None` where this machine
/// has no instructions for it. Takes about 200 ms.
pub fn fma_peak(dtype: DType) -> Option<f64> {
    let words = Words::of(dtype, Isa::current())?;
    const STEPS: usize = 8_000_000;
    let threads = rayon::current_num_threads();
    let once = || {
        let start = Instant::now();
        let operations: u64 = (0..threads).into_par_iter().map(|_| fma_chains(words, STEPS)).sum();
        operations as f64 / start.elapsed().as_secs_f64()
    };
    Some((0..8).map(|_| once()).fold(0.0, f64::max))
}

/// Bytes a second that all threads of the current pool read from memory together. Takes about 100 ms.
pub fn read_bandwidth() -> f64 {
    let data = vec![1u64; 32 << 20];
    let part = data.len() / rayon::current_num_threads();
    let once = || {
        let start = Instant::now();
        let sum: u64 = data.par_chunks(part).map(|part| part.iter().fold(0u64, |sum, x| sum ^ x)).sum();
        std::hint::black_box(sum);
        size_of_val(&data[..]) as f64 / start.elapsed().as_secs_f64()
    };
    (0..3).map(|_| once()).fold(0.0, f64::max)
}
