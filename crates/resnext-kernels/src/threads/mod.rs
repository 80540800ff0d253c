//! Threads that stay awake between short loops, and how they share an output.

pub(crate) mod parallel;
pub(crate) mod shared_slice;
mod standby;
pub(crate) mod team;
