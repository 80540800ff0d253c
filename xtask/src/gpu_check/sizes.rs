//! How much a check does: the whole of it on a GPU, a small part of it on a CPU.

use crate::bench::grouped::SHAPES;

/// The seed of all weights, images and random points.
pub const SEED: u64 = 2016;

pub struct Sizes {
    /// Networks whose block forms are proved equal.
    pub proved: &'static [&'static str],
    /// Images per batch, and batches, of the training run.
    pub trained: (usize, usize),
    /// Channels and side of the maps of grouped 3×3 convolutions, 32 groups.
    pub grouped: &'static [(usize, usize)],
    pub grouped_batch: usize,
    /// Convolutions per measurement, and measurements.
    pub runs: (usize, usize),
    /// The network, with torchvision's stem, whose training steps are measured.
    pub network: &'static str,
    /// Its images per batch, and their side.
    pub images: (usize, usize),
    /// Its steps per measurement.
    pub steps: usize,
    /// Bytes to copy when the memory's bandwidth is measured.
    pub copied: usize,
}

pub const FULL: Sizes = Sizes {
    proved: &["resnext50_32x4d", "resnext20_8x4d"],
    trained: (64, 20),
    grouped: &SHAPES,
    grouped_batch: 64,
    runs: (20, 10),
    network: "resnext50_32x4d",
    images: (64, 224),
    steps: 20,
    copied: 1 << 30,
};

pub const SMALL: Sizes = Sizes {
    proved: &["resnext11_4x4d"],
    trained: (16, 4),
    grouped: &[(128, 7), (256, 4)],
    grouped_batch: 2,
    runs: (1, 2),
    network: "resnext50_4x4d",
    images: (2, 32),
    steps: 2,
    copied: 1 << 24,
};
