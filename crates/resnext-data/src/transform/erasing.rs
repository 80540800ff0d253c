//! Random erasing (Zhong et al., arXiv 1708.04896).

use super::crop::{Rectangle, uniform};
use super::gaussian::gaussian;
use rand::{Rng, RngExt};

/// The filling of an erased rectangle. Images are normalised, so 0 is the mean colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraseFill {
    /// Zeros.
    Zero,
    /// A Gaussian number of mean 0 and deviation 1 per pixel and channel: timm's mode `pixel`.
    Pixel,
}

impl EraseFill {
    /// Fills a rectangle of an image (H, W, 3) of width `width`.
    pub fn write(self, image: &mut [f32], width: usize, rectangle: Rectangle, rng: &mut impl Rng) {
        let columns = 3 * rectangle.left..3 * (rectangle.left + rectangle.width);
        for row in image.chunks_exact_mut(3 * width).skip(rectangle.top).take(rectangle.height) {
            for value in &mut row[columns.clone()] {
                *value = match self {
                    EraseFill::Zero => 0.0,
                    EraseFill::Pixel => gaussian(rng) as f32,
                };
            }
        }
    }
}

/// Erases a random rectangle of some images: torchvision's `RandomErasing`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomErasing {
    /// The probability that an image loses a rectangle, from 0 to 1.
    pub probability: f64,
    /// The smallest and largest area of the rectangle, as shares of the image's.
    pub area: (f64, f64),
    /// The smallest and largest ratio of height to width; its logarithm is uniformly distributed.
    pub aspect: (f64, f64),
    /// The filling.
    pub fill: EraseFill,
}

impl RandomErasing {
    /// The usual ranges: 2 to 33 % of the area, ratios from 0.3 to 3.3.
    pub fn new(probability: f64, fill: EraseFill) -> Self {
        RandomErasing { probability, area: (0.02, 0.33), aspect: (0.3, 3.3), fill }
    }

    /// Chooses the rectangle in an image of `size` (height, width); `None` if nothing is to be erased, or if
    /// ten random rectangles do not fit.
    pub fn choose(&self, (height, width): (usize, usize), rng: &mut impl Rng) -> Option<Rectangle> {
        if rng.random::<f64>() >= self.probability {
            return None;
        }
        for _ in 0..10 {
            let area = (width * height) as f64 * uniform(self.area, rng);
            let aspect = uniform((self.aspect.0.ln(), self.aspect.1.ln()), rng).exp();
            let h = (area * aspect).sqrt().round() as usize;
            let w = (area / aspect).sqrt().round() as usize;
            if (1..height).contains(&h) && (1..width).contains(&w) {
                let top = rng.random_range(0..=height - h);
                let left = rng.random_range(0..=width - w);
                return Some(Rectangle { left, top, width: w, height: h });
            }
        }
        None
    }

    /// Erases a rectangle of a normalised image (H, W, 3) of `size` (height, width).
    pub fn apply(&self, image: &mut [f32], size: (usize, usize), rng: &mut impl Rng) {
        if let Some(rectangle) = self.choose(size, rng) {
            self.fill.write(image, size.1, rectangle, rng);
        }
    }
}
