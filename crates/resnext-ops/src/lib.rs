#![doc = include_str!("../README.md")]

mod config;
mod devices;
mod element;
mod error;
mod infer;
mod layout;
mod profile;
mod roofline;
mod shape;
mod taps;
#[cfg(test)]
mod tests;
mod train;

pub use config::{AvgPool2dConfig, BatchNormConfig, Pool2dConfig};
pub use error::{Error, Result};
pub use layout::{is_channels_last, to_channels_last};
pub use resnext_kernels::{Conv2dConfig, ConvKernel};

// Training: operations with gradients, and the tape that records them.
pub use train::{BatchSums, with_batch_sums};
pub use train::{Bottleneck, ConvBn, Gradients, RunningStats, Stem};
pub use train::{adaptive_avg_pool2d, avg_pool2d, blur_pool2d, pad2d, reshape};
pub use train::{
    add, add_relu, batch_norm_eval, batch_norm_train, batch_norm_train_add_relu, cast, cat_channels,
};
pub use train::{binary_cross_entropy, scale_images, soft_cross_entropy};
pub use train::{conv1d_channels, gate_channels, sigmoid};
pub use train::{
    conv2d, conv2d_gradients, conv2d_kernels, conv2d_with_bias, cross_entropy, global_avg_pool, linear,
    loss_value,
};
pub use train::{
    custom, max_pool2d, modulo, relu, sum, untaped, value_and_gradients, value_and_gradients_with, vjp,
};

// Inference: packed convolutions on reused buffers, on the CPU.
pub use infer::{FeatureMap, FusedConv, Fusion, InputFormat, InputImages, bf16_is_native};
pub use resnext_kernels::{Quantization, QuantizationError, ThreadTeam};

// The machine.
#[cfg(feature = "cuda")]
pub use devices::cuda;
#[cfg(feature = "metal")]
pub use devices::metal::devices as metal_devices;
pub use profile::{profiled, scope};
pub use resnext_kernels::Isa;
pub use roofline::{fma_peak, memory_bandwidth, read_bandwidth};
