#![doc = include_str!("../README.md")]

mod activations;
mod batch_norm;
mod bottleneck;
mod cast;
mod composite;
mod conv2d;
mod conv_norm;
mod cross_entropy;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
mod fused_conv;
mod images;
mod kernels;
mod layout;
mod machine;
#[cfg(any(feature = "metal", test))]
mod metal;
mod pool;
mod profile;
mod residual;
mod residue;
mod stem;
mod tape;
mod widened;

pub use activations::Activations;
pub use batch_norm::{
    BatchNormConfig, RunningStats, batch_norm_eval, batch_norm_train, batch_norm_train_add_relu,
};
pub use bottleneck::Bottleneck;
pub use cast::cast;
pub use conv_norm::ConvNorm;
#[doc(hidden)]
pub use conv2d::conv2d_composite;
pub use conv2d::{Conv2dConfig, conv2d, conv2d_gradients, conv2d_with_bias, linear};
pub use cross_entropy::{cross_entropy, loss_value};
pub use error::{Error, Result};
pub use fused_conv::{FusedConv, Fusion, fused_dtype_is_supported};
pub use images::Images;
pub use kernels::{Crew, Isa, Quantization, QuantizationError};
pub use layout::{is_channels_last, to_channels_last};
pub use machine::{fma_peak, memory_bandwidth, read_bandwidth};
#[cfg(feature = "metal")]
pub use metal::devices as metal_devices;
pub use pool::{Pool2dConfig, global_avg_pool, max_pool2d};
pub use profile::{profiled, scope};
pub use residual::{add, add_relu, cat_channels, relu, sum};
pub use residue::residue;
pub use stem::Stem;
pub use tape::{Gradients, untaped, value_and_gradients, vjp};
