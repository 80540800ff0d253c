//! How large a photo may be.

/// The most pixels that a photo may have. A small file can claim any size; no camera exceeds this one.
pub const PIXEL_LIMIT: u64 = 1 << 28;
