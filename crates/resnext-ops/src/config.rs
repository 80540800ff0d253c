//! The settings of operations.

use crate::error::{Error, Result};

/// The settings of a batch normalisation; the defaults are PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormConfig {
    /// Added to the variance.
    pub eps: f64,
    /// The weight of this batch in the running statistics.
    pub momentum: f64,
    /// Whether `max(·, 0)` follows, in the same pass.
    pub relu: bool,
}

impl Default for BatchNormConfig {
    fn default() -> Self {
        BatchNormConfig { eps: 1e-5, momentum: 0.1, relu: false }
    }
}

/// The settings of a pooling window, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2dConfig {
    /// Pixels a side.
    pub kernel: usize,
    /// Pixels from one window to the next.
    pub stride: usize,
    /// Pixels beyond each border that a window may cover; they never are the maximum.
    pub padding: usize,
}

impl Pool2dConfig {
    pub(crate) fn wrong(&self, what: &str) -> Error {
        Error::Config { op: "max_pool2d", message: format!("{what}, got {self:?}") }
    }

    /// Windows along a side of `input` pixels.
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

    /// The source pixels of window `i` along a side of `input`.
    pub(crate) fn window(&self, i: usize, input: usize) -> std::ops::Range<usize> {
        let start = i * self.stride;
        start.saturating_sub(self.padding)..(start + self.kernel).saturating_sub(self.padding).min(input)
    }
}
