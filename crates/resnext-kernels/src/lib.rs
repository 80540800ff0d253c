//! CPU kernels on channels-last slices, each behind one safe function.

mod group_lanes;
mod infer;
mod memory;
mod roofline;
mod row3;
mod shape;
mod simd;
mod threads;
mod train;
mod winograd;

pub use infer::job::{Epilogue, Job, Pixels, Row, SourceTable, Sources};
pub use infer::max_pool::max_pool_rows;
pub use infer::packed::{Filter, Packed};
pub use infer::precision::{WordType, Words, bf16_bits, halves_mut, unpair};
pub use infer::quantization::{Quantization, QuantizationError};
pub use infer::quantize::quantize_rows;
pub use memory::aligned::{Lines, spread};
pub use memory::prefetch::{Cache, prefetch};
pub use roofline::fma_chains;
pub use shape::{Conv2dConfig, ConvShape};
pub use simd::dispatch::{Isa, lanes};
pub use simd::traits::{Element, MAX_LANES, Stored};
pub use threads::shared_slice::SharedMut;
pub use threads::team::Crew;
pub use train::batch_norm::{GradientSums, Moments, channel_sums, mean_and_variance};
pub use train::conv::{
    conv_forward, conv_gradients, conv_input_gradient, conv_pixel_gradients, conv_weight_gradient,
};
pub use train::max_pool::{LARGEST_WINDOW, Window, pool, pool_gradient};
pub use train::operand::{Line, Operand};
pub use train::per_channel::per_channel;
pub use train::residual::{Around, join, join_gradient};
pub use winograd::Tiling;
