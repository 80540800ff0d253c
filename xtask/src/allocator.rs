//! Keeps freed memory for the next step instead of giving it back to the system.
//!
//! Feature maps have the same sizes in every step. By default glibc maps each large one anew and the system
//! zeroes all its pages, which takes more than half of a training step (docs/notes/performance.md). Other C
//! libraries keep their settings.

/// Changes glibc's settings. Must be called before other threads start.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_freed_memory() {
    // SAFETY: mallopt only stores settings; no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Does nothing: only glibc has these settings.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed_memory() {}
