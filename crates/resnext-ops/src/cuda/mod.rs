//! CUDA: kernels of ours for every operation of a training step, and cuDNN or cuBLAS where asked.
//!
//! The kernels are compiled by NVRTC when they are first used, for the very device and for the sizes that matter (the
//! channels a group, the stride): a build needs no `nvcc` for them, one binary serves every compute capability from 8.0
//! on, and a kernel's constants stay constants. The price is some tenths of a second for each when a process first needs it.
//! (candle's own kernels are compiled by `nvcc` in its build, for one capability.)
//!
//! All work of a device is on its one stream, so nothing waits for anything else and buffers may be freed as soon as
//! what reads them is launched.

mod batch_norm;
mod conv;
mod cross_entropy;
#[cfg(feature = "cudnn")]
mod cudnn;
mod gemm;
mod general;
mod grouped;
mod launch;
mod memory;
mod pointwise;
mod pool;
mod settings;
mod sgd;
mod sources;
mod weights;

pub use launch::{Launched, launches};
pub use settings::{Convolutions, Description, convolutions, describe, open, set_convolutions, with_tf32};
pub use sgd::{SgdParameter, SgdSettings, sgd_step};
#[doc(hidden)]
pub use sources::ptx_of_all;

pub(crate) use batch_norm::{BatchNorm, cuda, tensor};
pub(crate) use conv::{add_bias, bias_gradient, forward, input_gradient, weight_gradient};
pub(crate) use cross_entropy::{loss, loss_gradient};
pub(crate) use launch::log_candle;
pub(crate) use pointwise::{Pointwise, copy, pointwise, residue};
pub(crate) use pool::{average_pool, average_pool_gradient, max_pool, max_pool_gradient};
