//! Software prefetch.

/// A cache level of a core.
#[derive(Clone, Copy)]
pub enum CacheLevel {
    /// The first level, L1.
    First,
    /// The second level, L2.
    Second,
}

/// Prefetches the cache line that `at` points into.
#[inline(always)]
pub fn prefetch<T>(at: *const T, into: CacheLevel) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch never faults, wherever it points to.
        unsafe {
            match into {
                CacheLevel::First => _mm_prefetch::<_MM_HINT_T0>(at.cast()),
                CacheLevel::Second => _mm_prefetch::<_MM_HINT_T1>(at.cast()),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, into);
}

/// Prefetches a cache line that will be written, with ownership: no other core keeps a copy.
#[inline(always)]
pub fn prefetch_to_write(word: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, wherever it points to; a CPU without this instruction does nothing.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) word, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = word;
}

/// Prefetches the lines that `count` vectors, `stride` elements apart, are about to be written to.
#[inline(always)]
pub fn prefetch_strided<T>(out: *mut T, count: usize, stride: usize) {
    for i in 0..count {
        prefetch(out.wrapping_add(i * stride), CacheLevel::Second);
    }
}
