//! The pools between convolutions: the stem's, the shortcut's, and those that take the place of strides.

use crate::config::{Config, StemKind};
use crate::error::Result;
use crate::variants::AntiAlias;
use candle_core::Tensor;
use resnext_ops::{AvgPool2dConfig, Pool2dConfig, avg_pool2d, blur_pool2d, max_pool2d};

/// A 2×2 average with stride 2; at an odd border, the mean of the pixels that are there.
pub(crate) const HALVING: AvgPool2dConfig =
    AvgPool2dConfig { kernel: 2, stride: 2, padding: 0, ceil: true, count_padding: false };

/// The pool after the stem's convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StemPool {
    /// None: the stem is CIFAR's.
    None,
    /// A maximum.
    Max(Pool2dConfig),
    /// An average, which drops the last pixel of an odd side.
    Average(AvgPool2dConfig),
    /// A maximum without a stride, and a blur with stride 2.
    Blurred(Pool2dConfig),
}

impl Config {
    /// The pool after the stem's convolutions.
    pub(crate) fn stem_pool(&self) -> StemPool {
        let max = Pool2dConfig { kernel: 3, stride: 2, padding: 1 };
        match (self.stem, self.anti_alias) {
            (StemKind::Cifar, _) => StemPool::None,
            (StemKind::ImageNet, AntiAlias::None) => StemPool::Max(max),
            (StemKind::ImageNet, AntiAlias::Average) => {
                StemPool::Average(AvgPool2dConfig { ceil: false, ..HALVING })
            }
            (StemKind::ImageNet, AntiAlias::Blur) => StemPool::Blurred(Pool2dConfig { stride: 1, ..max }),
        }
    }
}

impl StemPool {
    /// The pixels along a side of its output, for `input` pixels.
    pub(crate) fn output(self, input: usize) -> usize {
        match self {
            StemPool::None => input,
            StemPool::Average(_) => input / 2,
            StemPool::Max(_) | StemPool::Blurred(_) => input.div_ceil(2),
        }
    }

    /// From (N, C, H, W) to half the height and width, if there is a pool.
    pub(crate) fn forward(self, x: Tensor) -> Result<Tensor> {
        Ok(match self {
            StemPool::None => x,
            StemPool::Max(config) => max_pool2d(&x, &config)?,
            StemPool::Average(config) => avg_pool2d(&x, &config)?,
            StemPool::Blurred(config) => blur_pool2d(&max_pool2d(&x, &config)?, 2)?,
        })
    }
}

impl AntiAlias {
    /// Halves the sides of `x` (N, C, H, W), rounded up.
    pub(crate) fn halve(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            AntiAlias::None => x.clone(),
            AntiAlias::Average => avg_pool2d(x, &HALVING)?,
            AntiAlias::Blur => blur_pool2d(x, 2)?,
        })
    }
}
