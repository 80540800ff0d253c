//! Settings of batch normalisation and pooling. Those of convolutions are `resnext_kernels::Conv2dConfig`.

use crate::error::{Error, Result};
use crate::taps::AxisTaps;
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
    ///
    /// # Errors
    /// If the kernel or the stride is 0, the padding is more than half the kernel, or the window does not fit.
    pub fn output(&self, input: usize) -> Result<usize> {
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

/// The settings of a square window that is averaged, the same along both axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AvgPool2dConfig {
    /// The height and width of the window in pixels, at least 1.
    pub kernel: usize,
    /// The number of pixels from one window to the next, at least 1.
    pub stride: usize,
    /// The number of pixels beyond each border that a window may cover, at most half of `kernel`.
    pub padding: usize,
    /// Whether a last window that covers a part of the map only is kept: PyTorch's `ceil_mode`.
    pub ceil: bool,
    /// Whether pixels beyond the border count as zeros, rather than not at all: PyTorch's `count_include_pad`.
    pub count_padding: bool,
}

impl AvgPool2dConfig {
    /// The error that these settings are not valid, for the reason `what`.
    fn wrong(&self, what: &str) -> Error {
        Error::Config { op: "avg_pool2d", message: format!("{what}, got {self:?}") }
    }

    /// The number of windows along a side of `input` pixels.
    ///
    /// # Errors
    /// If the kernel or the stride is 0, the padding is more than half the kernel, or the window does not fit.
    pub fn output(&self, input: usize) -> Result<usize> {
        let AvgPool2dConfig { kernel, stride, padding, ceil, .. } = *self;
        if kernel == 0 || stride == 0 {
            return Err(self.wrong("kernel and stride must be at least 1"));
        }
        if padding > kernel / 2 {
            return Err(self.wrong("padding must be at most half the kernel"));
        }
        // With `ceil`, one pixel is enough for a window.
        let Some(rest) = (input + 2 * padding).checked_sub(if ceil { 1 } else { kernel }) else {
            return Err(self.wrong(&format!("the window does not fit a side of {input}")));
        };
        if !ceil {
            return Ok(rest / stride + 1);
        }
        let windows = (input + 2 * padding).saturating_sub(kernel).div_ceil(stride) + 1;
        // A window that would start beyond the map is dropped.
        Ok(if (windows - 1) * stride >= input + padding { windows - 1 } else { windows })
    }

    /// The pixels that each window along a side of `input` pixels averages, with their weights.
    pub(crate) fn taps(&self, input: usize) -> Result<AxisTaps> {
        let AvgPool2dConfig { kernel, stride, padding, count_padding, .. } = *self;
        let window = |i: usize| {
            let inside = pool_window(i, input, kernel, stride, padding);
            // A window that counts padding is cut at the end of the padded side.
            let padded = (i * stride + kernel).min(input + 2 * padding) - i * stride;
            let count = if count_padding { padded } else { inside.len() };
            inside.map(|source| (source, 1.0 / count as f64)).collect()
        };
        Ok(AxisTaps::new(input, (0..self.output(input)?).map(window).collect()))
    }
}

/// Zeros around a side of `input` pixels: output pixels beyond the border sum nothing.
pub(crate) fn padding_taps(input: usize, padding: usize) -> AxisTaps {
    let source = |i: usize| i.checked_sub(padding).filter(|source| *source < input);
    let pixel = |i: usize| source(i).map(|source| (source, 1.0)).into_iter().collect();
    AxisTaps::new(input, (0..input + 2 * padding).map(pixel).collect())
}

/// The averages of a side of `input` pixels over `cells` cells, which overlap where they do not divide it:
/// PyTorch's adaptive average pool.
pub(crate) fn adaptive_taps(input: usize, cells: usize) -> Result<AxisTaps> {
    if input == 0 || cells == 0 {
        let message = format!("expected at least one pixel and one cell, got {input} and {cells}");
        return Err(Error::Config { op: "adaptive_avg_pool2d", message });
    }
    let cell = |i: usize| {
        let sources = i * input / cells..((i + 1) * input).div_ceil(cells);
        let count = sources.len() as f64;
        sources.map(|source| (source, 1.0 / count)).collect()
    };
    Ok(AxisTaps::new(input, (0..cells).map(cell).collect()))
}

/// The weights of each output pixel of a blur along a side of `input` pixels: (1, 2, 1)/4 around every `stride`th
/// pixel, with the map reflected at its borders.
pub(crate) fn blur_taps(input: usize, stride: usize) -> Result<AxisTaps> {
    if input < 2 || stride == 0 {
        let message =
            format!("expected sides of at least 2 and a stride of at least 1, got {input} and {stride}");
        return Err(Error::Config { op: "blur_pool2d", message });
    }
    let window = |i: usize| {
        let centre = i * stride;
        let before = centre.abs_diff(1);
        let after = if centre + 1 < input { centre + 1 } else { centre - 1 };
        vec![(before, 0.25), (centre, 0.5), (after, 0.25)]
    };
    Ok(AxisTaps::new(input, (0..input.div_ceil(stride)).map(window).collect()))
}
