//! Crops of random area and aspect ratio (Szegedy et al., "Going Deeper with Convolutions", arXiv 1409.4842,
//! section 6), with which ResNet and ResNeXt are trained on ImageNet.

use crate::photo::{Photo, ReducedPhoto};
use rand::{Rng, RngExt};
use std::ops::Range;

/// A rectangle of an image, in whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rectangle {
    /// The left edge.
    pub left: usize,
    /// The top edge.
    pub top: usize,
    /// The width, at least 1.
    pub width: usize,
    /// The height, at least 1.
    pub height: usize,
}

impl Rectangle {
    /// The part of `photo` in this rectangle; `None` if it is empty or reaches beyond the photo.
    pub fn crop(&self, photo: &Photo) -> Option<Photo> {
        if self.left + self.width > photo.width() || self.top + self.height > photo.height() {
            return None;
        }
        let line = 3 * photo.width();
        let columns = 3 * self.left..3 * (self.left + self.width);
        let rows = photo.pixels().chunks_exact(line).skip(self.top).take(self.height);
        let pixels = rows.flat_map(|row| &row[columns.clone()]).copied().collect();
        Photo::new(self.width, self.height, pixels)
    }
}

/// A part of a photo, whose edges may lie between pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Part {
    /// The left edge, in pixels from the photo's.
    pub left: f64,
    /// The top edge, in pixels from the photo's.
    pub top: f64,
    /// The width in pixels, above 0.
    pub width: f64,
    /// The height in pixels, above 0.
    pub height: f64,
}

impl Part {
    /// All of a photo.
    pub fn whole(photo: &Photo) -> Self {
        Part { left: 0.0, top: 0.0, width: photo.width() as f64, height: photo.height() as f64 }
    }

    /// A rectangle of whole pixels.
    pub fn of(rectangle: &Rectangle) -> Self {
        Part {
            left: rectangle.left as f64,
            top: rectangle.top as f64,
            width: rectangle.width as f64,
            height: rectangle.height as f64,
        }
    }

    /// Where the part is in a photo of fewer pixels.
    pub fn reduced(&self, ReducedPhoto { by, left, top, .. }: &ReducedPhoto) -> Self {
        let by = *by as f64;
        Part {
            left: (self.left + *left as f64) / by,
            top: (self.top + *top as f64) / by,
            width: self.width / by,
            height: self.height / by,
        }
    }

    /// The columns and rows of `photo` that the part touches; at least one of each.
    pub fn pixels(&self, photo: &Photo) -> (Range<usize>, Range<usize>) {
        let touched = |start: f64, length: f64, end: usize| {
            let first = (start.max(0.0) as usize).min(end - 1);
            first..((start + length).ceil() as usize).clamp(first + 1, end)
        };
        (touched(self.left, self.width, photo.width()), touched(self.top, self.height, photo.height()))
    }
}

/// Chooses a rectangle of random area and aspect ratio, which is then resized to the network's input:
/// torchvision's `RandomResizedCrop`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomResizedCrop {
    /// The smallest and largest area, as shares of the photo's, above 0 and at most 1.
    pub area: (f64, f64),
    /// The smallest and largest ratio of width to height, above 0; its logarithm is uniformly distributed.
    pub aspect: (f64, f64),
}

/// The usual ranges: 8 to 100 % of the area, ratios from 3:4 to 4:3.
impl Default for RandomResizedCrop {
    fn default() -> Self {
        RandomResizedCrop { area: (0.08, 1.0), aspect: (3.0 / 4.0, 4.0 / 3.0) }
    }
}

/// The number of rectangles that are tried before the central one is taken.
const TRIES: usize = 10;

impl RandomResizedCrop {
    /// Chooses a rectangle of a photo of `width` × `height` pixels. If ten random ones do not fit, it is the
    /// largest central one whose ratio is in range.
    pub fn choose(&self, (width, height): (usize, usize), rng: &mut impl Rng) -> Rectangle {
        for _ in 0..TRIES {
            let area = (width * height) as f64 * uniform(self.area, rng);
            let aspect = uniform((self.aspect.0.ln(), self.aspect.1.ln()), rng).exp();
            let w = (area * aspect).sqrt().round() as usize;
            let h = (area / aspect).sqrt().round() as usize;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let top = rng.random_range(0..=height - h);
                let left = rng.random_range(0..=width - w);
                return Rectangle { left, top, width: w, height: h };
            }
        }
        let ratio = width as f64 / height as f64;
        let (w, h) = if ratio < self.aspect.0 {
            (width, (width as f64 / self.aspect.0).round() as usize)
        } else if ratio > self.aspect.1 {
            ((height as f64 * self.aspect.1).round() as usize, height)
        } else {
            (width, height)
        };
        let (w, h) = (w.clamp(1, width), h.clamp(1, height));
        Rectangle { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
    }
}

/// A number between the two, or the first if they are equal.
pub(crate) fn uniform((low, high): (f64, f64), rng: &mut impl Rng) -> f64 {
    low + (high - low) * rng.random::<f64>()
}
