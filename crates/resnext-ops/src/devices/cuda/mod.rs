//! CUDA: this project's kernels for every operation of a training step, and cuBLAS and cuDNN for some
//! convolutions.
//!
//! NVRTC compiles a kernel when it is first used, for the device at hand and with the sizes that matter as
//! constants (channels per group, stride). A build therefore needs no `nvcc` for them, and one binary serves
//! every compute capability from 8.0 on. The price is a few tenths of a second per kernel in each process.
//! (candle's own kernels are compiled by `nvcc` in its build, for one capability.)
//!
//! All work of a device is on one stream, in order, so a buffer may be freed as soon as the kernels that read
//! it are launched.

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
