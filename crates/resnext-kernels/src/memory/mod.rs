//! Aligned buffers, scratch memory and software prefetch.

pub(crate) mod aligned;
pub(crate) mod prefetch;
pub(crate) mod scratch;
