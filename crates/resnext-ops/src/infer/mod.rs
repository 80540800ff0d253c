//! Inference: packed convolutions on reused buffers, on the CPU.

mod concat;
pub(crate) mod conv;
pub(crate) mod feature_map;
mod gate;
pub(crate) mod input;
mod int8;
mod map_view;
mod rows;
mod windows;

pub use conv::{FusedConv, Fusion, bf16_is_native};
pub use feature_map::FeatureMap;
pub use input::{InputFormat, InputImages};
