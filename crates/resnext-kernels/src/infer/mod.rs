//! Inference: convolutions with packed weights, bias, residual and ReLU, in f32, bf16 and int8; max-pooling and
//! quantization. `pack.rs` chooses the kernel, `convolve.rs` runs it.

mod convolve;
mod direct;
pub(crate) mod dot_product;
mod finish;
mod grouped_rows;
mod inner_product;
pub(crate) mod job;
mod matrix_tiles;
pub(crate) mod max_pool;
mod pack;
pub(crate) mod packed;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod pointwise;
pub(crate) mod precision;
mod prefetch_plan;
mod quads;
pub(crate) mod quantization;
pub(crate) mod quantize;
pub(crate) mod source_rows;
mod tiles;
mod winograd;
