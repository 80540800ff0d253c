#![doc = include_str!("../README.md")]

mod batch_norm;
mod composite;
mod conv2d;
mod cross_entropy;
mod error;
mod inference;
mod kernels;
mod layout;
mod machine;
mod pool;
mod residual;
mod residue;
mod tape;

pub use batch_norm::{BatchNormConfig, RunningStats, batch_norm_eval, batch_norm_train};
#[doc(hidden)]
pub use conv2d::conv2d_composite;
pub use conv2d::{Conv2dConfig, conv2d, conv2d_with_bias, linear};
pub use cross_entropy::cross_entropy;
pub use error::{Error, Result};
pub use inference::{Activations, FusedConv};
pub use kernels::Isa;
pub use layout::{is_channels_last, to_channels_last};
pub use machine::{fma_peak, read_bandwidth};
pub use pool::{Pool2dConfig, global_avg_pool, max_pool2d};
pub use residual::{add, add_relu, cat_channels, relu, sum};
pub use residue::residue;
pub use tape::{Gradients, untaped, value_and_gradients, vjp};
