//! Random brightness, contrast and saturation, as in fb.resnet.torch, which trained the paper's networks.

use super::crop::uniform;
use super::operation::Operation;
use crate::photo::Photo;
use rand::{Rng, RngExt};

/// Changes brightness, contrast and saturation by random factors, in random order: torchvision's
/// `ColorJitter` without hue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ColorJitter {
    /// Brightness is multiplied by a factor from 1 - this (at least 0) to 1 + this.
    pub brightness: f64,
    /// The same for contrast.
    pub contrast: f64,
    /// The same for saturation.
    pub saturation: f64,
}

impl ColorJitter {
    /// 0.4 for all three, with which the paper's networks were trained.
    pub fn paper() -> Self {
        ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4 }
    }

    /// The operations, with factors and order chosen by `rng`.
    pub fn choose(&self, rng: &mut impl Rng) -> [Operation; 3] {
        let mut factor = |range: f64| uniform(((1.0 - range).max(0.0), 1.0 + range), rng);
        let mut operations = [
            Operation::Brightness(factor(self.brightness)),
            Operation::Contrast(factor(self.contrast)),
            Operation::Saturation(factor(self.saturation)),
        ];
        operations.swap(2, rng.random_range(0..=2));
        operations.swap(1, rng.random_range(0..=1));
        operations
    }

    /// Changes the colours of `image`.
    pub fn apply(&self, image: &mut Photo, rng: &mut impl Rng) {
        self.choose(rng).into_iter().for_each(|operation| operation.apply(image, [0; 3]));
    }
}
