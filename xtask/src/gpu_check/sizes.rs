//! How much a check does: the whole of it on a GPU, a small part of it on a CPU.

use crate::bench::grouped::SHAPES;

/// The seed of all weights, images and random points.
pub const SEED: u64 = 2016;

/// A network with torchvision's stem, and what it computes.
pub struct NetworkCase {
    pub network: &'static str,
    /// Images per batch.
    pub batch: usize,
    /// Height and width of the images.
    pub side: usize,
}

impl NetworkCase {
    const fn new(network: &'static str, batch: usize, side: usize) -> Self {
        NetworkCase { network, batch, side }
    }

    /// For example `PyTorch, resnext50_32x4d, 64 of 224×224 in bf16`.
    pub fn describe(&self, engine: &str, precision: &str) -> String {
        format!("{engine}, {}, {} of {}×{2} in {precision}", self.network, self.batch, self.side)
    }
}

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
    /// The networks whose training steps are measured.
    pub training: &'static [NetworkCase],
    /// Steps per measurement.
    pub steps: usize,
    /// The networks whose inference is measured.
    pub inference: &'static [NetworkCase],
    /// Forward passes per measurement.
    pub passes: usize,
    /// Bytes to copy when the memory's bandwidth is measured.
    pub copied: usize,
}

pub const FULL: Sizes = Sizes {
    proved: &["resnext50_32x4d", "resnext20_8x4d"],
    trained: (64, 20),
    grouped: &SHAPES,
    grouped_batch: 64,
    runs: (20, 10),
    training: &[
        NetworkCase::new("resnext50_32x4d", 64, 224),
        NetworkCase::new("resnext50_32x4d", 256, 224),
        NetworkCase::new("resnext101_32x4d", 64, 224),
    ],
    steps: 10,
    inference: &[
        NetworkCase::new("resnext50_32x4d", 1, 224),
        NetworkCase::new("resnext50_32x4d", 8, 224),
        NetworkCase::new("resnext50_32x4d", 64, 224),
        NetworkCase::new("resnext50_32x4d", 256, 224),
    ],
    passes: 20,
    copied: 1 << 30,
};

pub const SMALL: Sizes = Sizes {
    proved: &["resnext11_4x4d"],
    trained: (16, 4),
    grouped: &[(128, 7), (256, 4)],
    grouped_batch: 2,
    runs: (1, 2),
    training: &[NetworkCase::new("resnext50_4x4d", 2, 32)],
    steps: 2,
    inference: &[NetworkCase::new("resnext50_4x4d", 2, 32)],
    passes: 2,
    copied: 1 << 24,
};
