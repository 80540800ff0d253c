//! Grouped 3×3 convolution on Apple's GPUs, by the kernels in `grouped.metal`. All other convolutions and
//! operations there are candle's.

#[cfg(feature = "metal")]
pub(crate) mod launch;
pub(crate) mod plan;

#[cfg(feature = "metal")]
pub use launch::devices;
