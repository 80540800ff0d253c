//! Settings of batch normalisation and pooling. Those of convolutions are `resnext_kernels::Conv2dConfig`.

use crate::error::{Error, Result};
use resnext_kernels::pool_window;
use std::ops::Range;

/// The settings of a batch normalisation; the defaults are PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormConfig {
    /// The number added to the variance before its square root is taken.
    pub eps: f64,
    /// The weight of the current batch in the running statistics, from 0 to 1.
    pub momentum: f64,
    /// Whether `max(·, 0)` follows in the same pass.
    pub relu: bool,
}

impl Default for BatchNormConfig {
    fn default() -> Self {
        BatchNormConfig { eps: 1e-5, momentum: 0.1, relu: false }
    }
}

/// The settings of a square pooling window, the same along both axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2dConfig {
    /// The height and width of the window in pixels, at least 1.
    pub kernel: usize,
    /// The number of pixels from one window to the next, at least 1.
    pub stride: usize,
    /// The number of pixels beyond each border that a window may cover, at most half of `kernel`. They are
    /// never the maximum.
    pub padding: usize,
}

impl Pool2dConfig {
    /// The error that these settings are not valid, for the reason `what`.
    pub(crate) fn wrong(&self, what: &str) -> Error {
        Error::Config { op: "max_pool2d", message: format!("{what}, got {self:?}") }
    }

    /// The number of windows along a side of `input` pixels.
    pub(crate) fn output(&self, input: usize) -> Result<usize> {
        let Pool2dConfig { kernel, stride, padding } = *self;
        if kernel == 0 || stride == 0 {
            return Err(self.wrong("kernel and stride must be at least 1"));
        }
        if padding > kernel / 2 {
            return Err(self.wrong("padding must be at most half the kernel"));
        }
        match (input + 2 * padding).checked_sub(kernel) {
            Some(rest) => Ok(rest / stride + 1),
            None => Err(self.wrong(&format!("the window does not fit a side of {input}"))),
        }
    }

    /// The source pixels of window `i` along a side of `input` pixels.
    pub(crate) fn window(&self, i: usize, input: usize) -> Range<usize> {
        pool_window(i, input, self.kernel, self.stride, self.padding)
    }
}
