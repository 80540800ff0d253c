//! Inference: packed convolutions on reused buffers, on the CPU.

pub(crate) mod conv;
pub(crate) mod feature_map;
pub(crate) mod input;
mod int8;
mod map_view;
mod rows;

pub use conv::{FusedConv, Fusion, fused_dtype_is_supported};
pub use feature_map::FeatureMap;
pub use input::{InputFormat, InputImages};
