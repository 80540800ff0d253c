#![doc = include_str!("../README.md")]

mod conv_kernel;
mod group_lanes;
mod infer;
#[doc(hidden)]
pub mod internals;
mod memory;
mod roofline;
mod row3;
mod shape;
mod simd;
mod threads;
mod train;
mod winograd;

// Sizes, types and instruction sets.
pub use conv_kernel::ConvKernel;
pub use shape::{Conv2dConfig, ConvShape, pool_window};
pub use simd::dispatch::{Isa, lanes};
pub use simd::traits::{Element, MAX_LANES, Storage};

// Training: convolutions, their gradients, and what surrounds them.
pub use train::block_sink::{BlockSink, BlockTotals};
pub use train::entry::{BatchNormKernels, TrainKernels};
pub use train::max_pool::{MAX_WINDOW, Window};
pub use train::operand::{Affine, Gate, Operand};
pub use train::residual::{Shortcut, Totals};
pub use train::strided_gradient::StridedGradient;

// Inference: packed convolutions on the caller's buffers.
pub use infer::job::{ConvJob, Epilogue, PixelView, RowLayout, SourceTable, Sources};
pub use infer::max_pool::max_pool_rows;
pub use infer::packed::{Filter, MAX_PAIR_SUM, Packed, max_pair_sum};
pub use infer::precision::{MapType, Precision, bf16_bits, halves_mut, unpair};
pub use infer::quantization::{Quantization, QuantizationError};
pub use infer::quantize::quantize_rows;
pub use winograd::Tiling;

// Threads, memory and the machine's peak.
pub use memory::aligned::{AlignedBuffer, padded_stride};
pub use memory::prefetch::{CacheLevel, prefetch};
pub use roofline::fma_chains;
pub use threads::shared_slice::SharedSlice;
pub use threads::team::ThreadTeam;
