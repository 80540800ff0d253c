//! Inference on a CPU: packed convolutions with batch norm folded in, on buffers that are kept.

mod buffers;
mod builder;
mod network;

pub use network::Fused;
