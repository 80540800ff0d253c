//! The networks that the paper compares ResNeXt with, and the one whose design rules it inherits.
//!
//! Each is described once, as its paper draws it, by `Node`s; `network.rs` trains that description, `fused.rs`
//! computes it from packed weights, and `summary.rs` counts it.

mod baseline;
mod fused;
mod inception_resnet_v2;
mod inception_v3;
mod inception_v4;
mod network;
pub(crate) mod node;
mod summary;
mod vgg;

pub use baseline::Baseline;
pub use fused::FusedBaseline;
pub use network::BaselineNetwork;
