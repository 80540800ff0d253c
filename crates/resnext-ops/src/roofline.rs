//! The machine's limits, peak arithmetic and memory bandwidth, which a benchmark is compared to.

#[cfg(feature = "cuda")]
use crate::devices::cuda::{memory::cuda, pointwise};
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use resnext_kernels::{Isa, Precision, fma_chains};
use std::time::Instant;

/// The operations per second that all threads of the current rayon pool reach together on values in
/// registers, with a multiply-add counted as two: of f32, of bf16 with f32 sums, or of u8 with integer sums.
/// Where the CPU has no instructions for bf16, the peak is that of f32, in which it computes. `None` for other types. Takes
/// about 200 ms.
///
/// With AVX2 without AVX-VNNI, the peak of u8 is twice that of f32: an instruction for two products of 16 bits takes the
/// place of a multiply-add. It is unknown with other sets without instructions for u8.
pub fn fma_peak(dtype: DType) -> Option<f64> {
    let isa = Isa::current();
    let (precision, per_operation) = match dtype {
        DType::F32 => (Precision::F32(isa), 1.0),
        DType::BF16 => (Precision::bf16(isa).unwrap_or(Precision::F32(isa)), 1.0),
        DType::U8 => match Precision::int8(isa) {
            precision if precision.has_dot_instruction() => (precision, 1.0),
            Precision::Int8(Isa::Avx2) => (Precision::F32(Isa::Avx2), 2.0),
            _ => return None,
        },
        _ => return None,
    };
    const STEPS: usize = 8_000_000;
    let threads = rayon::current_num_threads();
    let once = || {
        let start = Instant::now();
        let operations: u64 = (0..threads).into_par_iter().map(|_| fma_chains(precision, STEPS)).sum();
        per_operation * operations as f64 / start.elapsed().as_secs_f64()
    };
    Some((0..8).map(|_| once()).fold(0.0, f64::max))
}

/// The bytes per second that all threads of the current rayon pool read from memory together. Takes about 100
/// ms.
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

/// The bytes per second that `device` reads and writes together while it copies within its memory: the best
/// of five runs of ten copies of `bytes` bytes, which should be much more than any cache holds.
///
/// # Errors
/// If the device cannot allocate twice `bytes`.
pub fn memory_bandwidth(device: &Device, bytes: usize) -> Result<f64> {
    const COPIES: usize = 10;
    let from = Tensor::ones(bytes / 4, DType::F32, device)?;
    let to = from.zeros_like()?;
    let mut best = f64::INFINITY;
    for round in 0..6 {
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..COPIES {
            copy(&from, &to)?;
        }
        device.synchronize()?;
        // The first round compiles kernels.
        if round > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok((2 * bytes * COPIES) as f64 / best)
}

/// Copies into memory that is allocated already, so that allocation is not timed.
fn copy(from: &Tensor, to: &Tensor) -> Result<()> {
    #[cfg(feature = "cuda")]
    if from.device().is_cuda() {
        let ((from, from_layout), (to, to_layout)) = (from.storage_and_layout(), to.storage_and_layout());
        let stored = ((cuda(&from)?, from_layout), (cuda(&to)?, to_layout));
        return Ok(pointwise::copy(stored.0, stored.1)?);
    }
    Ok(to.slice_set(from, 0, 0)?)
}
