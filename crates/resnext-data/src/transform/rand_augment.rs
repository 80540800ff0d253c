//! RandAugment (Cubuk et al., arXiv 1909.13719) with the operations and settings of timm.

use super::gaussian::gaussian;
use super::operation::Operation;
use crate::photo::Photo;
use rand::{Rng, RngExt};

/// Applies a number of random operations of about the same strength. timm's `rand-m9-mstd0.5-inc1` is
/// `magnitude` 9, `deviation` 0.5, `increasing`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandAugment {
    /// Operations per image; each is applied with probability 1/2, as in timm.
    pub operations: usize,
    /// The strength, from 0 to 10.
    pub magnitude: f64,
    /// The standard deviation of the strength, which is drawn anew for each operation and kept from 0 to 10.
    pub deviation: f64,
    /// Whether all operations change an image more as the strength grows. Without it, colour operations go
    /// from a factor of 0.1 to one of 1.9, and posterising and solarising weaken, as in the paper's code.
    pub increasing: bool,
    /// The colour of pixels that come from outside the image.
    pub fill: [u8; 3],
}

/// timm's defaults: two operations of magnitude 9.
impl Default for RandAugment {
    fn default() -> Self {
        RandAugment {
            operations: 2,
            magnitude: 9.0,
            deviation: 0.0,
            increasing: false,
            fill: [124, 116, 104],
        }
    }
}

const KINDS: usize = 15;
const LARGEST: f64 = 10.0;

impl RandAugment {
    /// The operation of a kind, from 0 to 14, on an image of `size` (width, height). `negative` chooses the
    /// sign of those that have one.
    fn operation(&self, kind: usize, level: f64, negative: bool, size: (usize, usize)) -> Operation {
        let part = level / LARGEST;
        let sign = if negative { -1.0 } else { 1.0 };
        let factor = if self.increasing { (1.0 + sign * 0.9 * part).max(0.1) } else { 0.1 + 1.8 * part };
        let bits = (4.0 * part) as u32;
        let threshold = ((256.0 * part) as u32).min(256) as f64;
        match kind {
            0 => Operation::AutoContrast,
            1 => Operation::Equalize,
            2 => Operation::Invert,
            3 => Operation::Rotate(sign * 30.0 * part),
            4 => Operation::Posterize(if self.increasing { 4 - bits } else { bits }),
            5 => Operation::Solarize(if self.increasing { 256.0 - threshold } else { threshold }),
            6 => Operation::SolarizeAdd((110.0 * part) as u8),
            7 => Operation::Saturation(factor),
            8 => Operation::Contrast(factor),
            9 => Operation::Brightness(factor),
            10 => Operation::Sharpness(factor),
            11 => Operation::ShearX(sign * 0.3 * part),
            12 => Operation::ShearY(sign * 0.3 * part),
            13 => Operation::TranslateX((sign * 0.45 * part * size.0 as f64) as i32),
            _ => Operation::TranslateY((sign * 0.45 * part * size.1 as f64) as i32),
        }
    }

    /// Chooses the operations for an image of `size` (width, height).
    pub fn choose(&self, size: (usize, usize), rng: &mut impl Rng) -> Vec<Operation> {
        let mut chosen = Vec::with_capacity(self.operations);
        for _ in 0..self.operations {
            let kind = rng.random_range(0..KINDS);
            let applied = rng.random::<bool>();
            let negative = rng.random::<bool>();
            let level = match self.deviation {
                0.0 => self.magnitude,
                deviation => self.magnitude + deviation * gaussian(rng),
            };
            if applied {
                chosen.push(self.operation(kind, level.clamp(0.0, LARGEST), negative, size));
            }
        }
        chosen
    }

    /// Changes `image`.
    pub fn apply(&self, image: &mut Photo, rng: &mut impl Rng) {
        let size = (image.width(), image.height());
        self.choose(size, rng).into_iter().for_each(|operation| operation.apply(image, self.fill));
    }
}
