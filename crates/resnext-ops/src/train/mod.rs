//! Training: operations with gradients, and the tape that records them.

mod batch_norm;
mod cast;
mod channel_gate;
pub(crate) mod conv2d;
mod cross_entropy;
mod custom;
mod elementwise;
pub(crate) mod fallback;
mod fused;
mod linear;
mod modulo;
mod norm;
mod pool;
mod residual;
mod soft_targets;
mod sync_norm;
mod tape;
mod upcast;
mod window_sum;

pub use batch_norm::{batch_norm_eval, batch_norm_train, batch_norm_train_add_relu};
pub use cast::cast;
pub use channel_gate::{conv1d_channels, gate_channels, sigmoid};
pub use conv2d::{conv2d, conv2d_gradients, conv2d_kernels, conv2d_with_bias};
pub use cross_entropy::{cross_entropy, loss_value};
pub use custom::custom;
pub use fused::{Bottleneck, ConvBn, Stem};
pub use linear::linear;
pub use modulo::modulo;
pub use norm::RunningStats;
pub use pool::{global_avg_pool, max_pool2d};
pub use residual::{add, add_relu, cat_channels, relu, scale_images, sum};
pub use soft_targets::{binary_cross_entropy, soft_cross_entropy};
pub use sync_norm::{BatchSums, with_batch_sums};
pub use tape::{Gradients, reshape, untaped, value_and_gradients, value_and_gradients_with, vjp};
pub use window_sum::{adaptive_avg_pool2d, avg_pool2d, blur_pool2d, pad2d};
