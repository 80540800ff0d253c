//! The evaluation transform with which the published accuracies were measured: resize, centre crop,
//! normalise.

use crate::crop_position::{CropPosition, Place};
use crate::dataset::{CHANNELS, Dataset, Normalization};
use crate::error::{Error, Result};
use crate::normalize::normalized;
use crate::photo::Photo;
use crate::resample::{Interpolation, resample};
use std::ops::Range;

/// Resizes a photo, takes the centre crop and normalises it: torchvision's `ImageClassification` preset and
/// timm's evaluation transform. Resized pixels equal Pillow's bit for bit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalTransform {
    /// The size after resizing.
    pub resize: Resize,
    /// Height and width of the centre crop, in pixels; a smaller photo is padded with black, or with the mean
    /// colour if it is resized to [fit](Resize::Fit).
    pub crop: (usize, usize),
    /// The resampling filter.
    pub interpolation: Interpolation,
    /// The network's input normalisation.
    pub normalization: Normalization,
}

/// The size of a photo after resizing, in pixels, and whether it keeps its shape. Pairs are height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// The shorter side has this length, and the photo keeps its shape: torchvision's rule, and timm's crop
    /// mode `center` for square inputs.
    Shorter(usize),
    /// The photo keeps its shape and covers this size: timm's crop mode `center` for other inputs.
    Cover(usize, usize),
    /// The photo keeps its shape and fits into this size: timm's crop mode `border`.
    Fit(usize, usize),
    /// The photo takes this size and shape: timm's crop mode `squash`.
    Squash(usize, usize),
}

/// The crop's position on the original photo, in the photo's own pixels. It may extend beyond the photo's
/// edges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// The left edge.
    pub left: f64,
    /// The top edge.
    pub top: f64,
    /// The width.
    pub width: f64,
    /// The height.
    pub height: f64,
}

/// The largest side, in pixels, that a transform may resize or crop to.
const SIDE_LIMIT: usize = 1 << 13;

impl EvalTransform {
    /// Checks that the sizes are from 1 to 8192 and that the normalisation is finite with a positive
    /// deviation.
    ///
    /// # Errors
    /// [`Error::Transform`], which names the setting and its range.
    pub fn validate(&self) -> Result<()> {
        let (height, width) = match self.resize {
            Resize::Shorter(side) => (side, side),
            Resize::Cover(height, width) | Resize::Fit(height, width) | Resize::Squash(height, width) => {
                (height, width)
            }
        };
        let (rows, columns) = self.crop;
        for (name, side) in [("resize", height), ("resize", width), ("crop", rows), ("crop", columns)] {
            if !(1..=SIDE_LIMIT).contains(&side) {
                return Err(Error::Transform(format!("{name} must be from 1 to {SIDE_LIMIT}, got {side}")));
            }
        }
        let Normalization { mean, std } = self.normalization;
        if !(mean.iter().all(|m| m.is_finite()) && std.iter().all(|s| s.is_finite() && *s > 0.0)) {
            return Err(Error::Transform(format!(
                "mean must be finite and std above 0, got {mean:?} and {std:?}"
            )));
        }
        Ok(())
    }

    /// Whether images of this height and width keep their pixels.
    pub fn keeps(&self, (height, width): (usize, usize)) -> bool {
        self.resized(width, height) == (width, height) && self.crop == (height, width)
    }

    /// Width and height after resizing of a photo of width `w` and height `h`.
    fn resized(&self, w: usize, h: usize) -> (usize, usize) {
        // timm divides both sides by the ratio of one of them, and rounds as Python does.
        let divided = |ratio: f64| {
            let side = |side: usize| ((side as f64 / ratio).round_ties_even() as usize).max(1);
            (side(w), side(h))
        };
        let ratios = |height: usize, width: usize| (h as f64 / height as f64, w as f64 / width as f64);
        match self.resize {
            Resize::Shorter(side) => {
                let long = |long: usize, short: usize| ((side * long) as f64 / short as f64) as usize;
                if w <= h { (side, long(h, w)) } else { (long(w, h), side) }
            }
            Resize::Cover(height, width) => {
                let (rows, columns) = ratios(height, width);
                divided(rows.min(columns))
            }
            Resize::Fit(height, width) => {
                let (rows, columns) = ratios(height, width);
                divided(rows.max(columns))
            }
            Resize::Squash(height, width) => (width, height),
        }
    }

    /// Takes the centre crop of a photo, without normalisation: returns pixels (H, W, 3), `u8`.
    pub fn crop(&self, photo: &Photo) -> Vec<u8> {
        self.crop_at(photo, CropPosition::Centre)
    }

    /// Crops like [`crop`](Self::crop), at any position. A photo that is smaller than the crop is in the middle of it.
    pub fn crop_at(&self, photo: &Photo, position: CropPosition) -> Vec<u8> {
        let (width, height) = self.resized(photo.width(), photo.height());
        let (vertical, horizontal) = position.places();
        let (columns, left) = window(width, self.crop.1, horizontal);
        let (rows, top) = window(height, self.crop.0, vertical);
        let (inner, line) = (columns.len() * CHANNELS, self.crop.1 * CHANNELS);
        let pixels = resample(photo, (width, height), columns, rows, self.interpolation);
        if pixels.len() == self.crop.0 * line {
            return pixels;
        }
        let colour = match self.resize {
            Resize::Fit(..) => self.normalization.mean.map(|m| (255.0 * m as f64).round_ties_even() as u8),
            _ => [0; CHANNELS],
        };
        let mut padded = colour.repeat(self.crop.0 * self.crop.1);
        for (out, pixels) in padded.chunks_exact_mut(line).skip(top).zip(pixels.chunks_exact(inner)) {
            out[left * CHANNELS..left * CHANNELS + inner].copy_from_slice(pixels);
        }
        padded
    }

    /// Takes the centre crop of a photo and normalises it: returns the network's input (H, W, 3).
    pub fn apply(&self, photo: &Photo) -> Vec<f32> {
        self.apply_at(photo, CropPosition::Centre)
    }

    /// Prepares a photo like [`apply`](Self::apply), with the crop at any position.
    pub fn apply_at(&self, photo: &Photo, position: CropPosition) -> Vec<f32> {
        normalized(&self.crop_at(photo, position), &self.normalization, [0.0; CHANNELS])
    }

    /// Crops all images of a data set, without normalisation.
    pub fn crop_all(&self, images: &Dataset) -> Dataset {
        let (height, width) = images.size();
        let plane = height * width;
        let crop = |i: usize| {
            let planar = images.image(i);
            let pixels = (0..plane).flat_map(|p| (0..CHANNELS).map(move |c| planar[c * plane + p])).collect();
            let crop = Photo::new(width, height, pixels).map_or(Vec::new(), |photo| self.crop(&photo));
            (0..CHANNELS)
                .flat_map(move |c| crop.iter().skip(c).step_by(CHANNELS).copied().collect::<Vec<_>>())
        };
        let pixels: Vec<u8> = (0..images.len()).flat_map(crop).collect();
        let labels = (0..images.len()).map(|i| images.label(i)).collect();
        Dataset::new(pixels, labels, self.crop, images.class_names().to_vec())
    }

    /// Returns the crop's position on the original photo.
    pub fn window(&self, photo: &Photo) -> Window {
        let (width, height) = self.resized(photo.width(), photo.height());
        let start = |side: usize, crop: usize| {
            let (window, padding) = window(side, crop, Place::Middle);
            window.start as f64 - padding as f64
        };
        let (x, y) = (photo.width() as f64 / width as f64, photo.height() as f64 / height as f64);
        Window {
            left: start(width, self.crop.1) * x,
            top: start(height, self.crop.0) * y,
            width: self.crop.1 as f64 * x,
            height: self.crop.0 as f64 * y,
        }
    }
}

/// The pixels of a side that lie within its crop, and the number of padding pixels before them.
fn window(side: usize, crop: usize, place: Place) -> (Range<usize>, usize) {
    if crop > side {
        return (0..side, (crop - side) / 2);
    }
    let start = place.start(side - crop);
    (start..start + crop, 0)
}
