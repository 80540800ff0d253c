//! Inference on a CPU: packed convolutions with batch norm folded in, on buffers that are reused.

mod buffers;
mod builder;
mod network;
mod stage;

pub use network::Fused;
