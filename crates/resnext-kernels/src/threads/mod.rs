//! A thread team for short loops, and how threads share work and an output.

pub(crate) mod parallel;
pub(crate) mod shared_slice;
pub(crate) mod split;
pub(crate) mod standby;
pub(crate) mod team;
