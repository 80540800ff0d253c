//! Training: convolutions and their gradients, and the batch norm, residual sums and pooling around them.

mod batch_norm;
pub(crate) mod block_sink;
mod blocks;
mod conv;
mod direct;
mod direct_wgrad;
pub(crate) mod entry;
mod gather;
mod gemm;
mod gemm_wgrad;
mod grouped3x3;
mod im2col;
pub(crate) mod max_pool;
pub(crate) mod operand;
pub(crate) mod packing;
mod per_channel;
mod pointwise_backward;
pub(crate) mod residual;
pub(crate) mod strided_gradient;
