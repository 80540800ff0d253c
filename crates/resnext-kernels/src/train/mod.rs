//! Training: convolutions and their gradients, and the batch norm, residual sums and pooling around them.

pub(crate) mod batch_norm;
mod blocks;
pub(crate) mod conv;
mod direct;
mod direct_wgrad;
mod gather;
mod gemm;
mod gemm_wgrad;
mod grouped3x3;
mod im2col;
pub(crate) mod max_pool;
pub(crate) mod operand;
mod packing;
pub(crate) mod per_channel;
mod pointwise_backward;
pub(crate) mod residual;
#[cfg(test)]
mod tests;
