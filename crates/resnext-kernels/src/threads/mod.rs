//! Threads that stay awake between short loops, and how they share an output.

pub(crate) mod parallel;
pub(crate) mod shared_slice;
pub(crate) mod split;
mod standby;
pub(crate) mod team;
