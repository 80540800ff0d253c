//! TrivialAugment (Müller and Hutter, arXiv 2103.10158) over its wide space of operations.

use super::operation::Operation;
use crate::photo::Photo;
use rand::{Rng, RngExt};

/// Applies one operation of a uniformly random kind and strength: torchvision's `TrivialAugmentWide`. It has
/// no settings beside the colour of pixels from outside the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrivialAugment {
    /// The colour of pixels that come from outside the image.
    pub fill: [u8; 3],
}

/// Strengths are multiples of 1/30 of the largest.
const LEVELS: u32 = 30;

impl TrivialAugment {
    /// Chooses the operation.
    pub fn choose(&self, rng: &mut impl Rng) -> Operation {
        let kind = rng.random_range(0..14);
        let strength = rng.random_range(0..=LEVELS) as f64 / LEVELS as f64;
        let sign = if rng.random::<bool>() { -1.0 } else { 1.0 };
        let signed = |largest: f64| sign * strength * largest;
        match kind {
            0 => Operation::Identity,
            1 => Operation::ShearX(signed(0.99)),
            2 => Operation::ShearY(signed(0.99)),
            3 => Operation::TranslateX(signed(32.0) as i32),
            4 => Operation::TranslateY(signed(32.0) as i32),
            5 => Operation::Rotate(signed(135.0)),
            6 => Operation::Brightness(1.0 + signed(0.99)),
            7 => Operation::Saturation(1.0 + signed(0.99)),
            8 => Operation::Contrast(1.0 + signed(0.99)),
            9 => Operation::Sharpness(1.0 + signed(0.99)),
            10 => Operation::Posterize((8.0 - 6.0 * strength).round_ties_even() as u32),
            11 => Operation::Solarize(255.0 * (1.0 - strength)),
            12 => Operation::AutoContrast,
            _ => Operation::Equalize,
        }
    }

    /// Changes `image`.
    pub fn apply(&self, image: &mut Photo, rng: &mut impl Rng) {
        self.choose(rng).apply(image, self.fill);
    }
}
