//! CUDA: kernels of ours for every operation of a training step, and cuDNN or cuBLAS where asked.
//!
//! The kernels are compiled by NVRTC when they are first used, for the very device and for the sizes that matter (the
//! channels a group, the stride): a build needs no `nvcc` for them, one binary serves every compute capability from 8.0
//! on, and a kernel's constants stay constants. The price is some tenths of a second for each when a process first needs it.
//! (candle's own kernels are compiled by `nvcc` in its build, for one capability.)
//!
//! All work of a device is on its one stream, so nothing waits for anything else and buffers may be freed as soon as
//! what reads them is launched.

pub(crate) mod batch_norm;
mod catalogue;
pub(crate) mod conv;
pub(crate) mod cross_entropy;
mod launch;
pub(crate) mod log;
pub(crate) mod memory;
pub(crate) mod pointwise;
pub(crate) mod pool;
mod settings;
mod sgd;
mod sources;

#[doc(hidden)]
pub use catalogue::ptx_of_all;
pub use log::{Launched, launches};
pub use settings::{Convolutions, Description, convolutions, describe, open, set_convolutions, with_tf32};
pub use sgd::{SgdParameter, SgdSettings, sgd_step};
