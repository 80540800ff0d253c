//! The evaluation transform with which the published accuracies were measured: resize, centre crop,
//! normalise.

use crate::dataset::{CHANNELS, Normalization};
use crate::error::{Error, Result};
use crate::normalize::normalized;
use crate::photo::Photo;
use crate::resample::{Interpolation, resample};
use std::ops::Range;

/// Resizes a photo's shorter side, takes the centre crop and normalises it: torchvision's
/// `ImageClassification` preset and timm's evaluation transform. Resized pixels equal Pillow's bit for bit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalTransform {
    /// Length of the shorter side after resizing, in pixels.
    pub resize: usize,
    /// Height and width of the centre crop, in pixels; a smaller photo is padded with black.
    pub crop: (usize, usize),
    /// The resampling filter.
    pub interpolation: Interpolation,
    /// The network's input normalisation.
    pub normalization: Normalization,
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
        for (name, side) in [("resize", self.resize), ("crop", self.crop.0), ("crop", self.crop.1)] {
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

    /// Width and height after resizing.
    fn resized(&self, photo: &Photo) -> (usize, usize) {
        let (w, h) = (photo.width(), photo.height());
        let long = |long: usize, short: usize| ((self.resize * long) as f64 / short as f64) as usize;
        if w <= h { (self.resize, long(h, w)) } else { (long(w, h), self.resize) }
    }

    /// Crops a photo, without normalisation: returns pixels (H, W, 3), `u8`.
    pub fn crop(&self, photo: &Photo) -> Vec<u8> {
        let (width, height) = self.resized(photo);
        let (columns, left) = middle(width, self.crop.1);
        let (rows, top) = middle(height, self.crop.0);
        let (inner, line) = (columns.len() * CHANNELS, self.crop.1 * CHANNELS);
        let pixels = resample(photo, (width, height), columns, rows, self.interpolation);
        if pixels.len() == self.crop.0 * line {
            return pixels;
        }
        let mut padded = vec![0; self.crop.0 * line];
        for (out, pixels) in padded.chunks_exact_mut(line).skip(top).zip(pixels.chunks_exact(inner)) {
            out[left * CHANNELS..left * CHANNELS + inner].copy_from_slice(pixels);
        }
        padded
    }

    /// Crops and normalises a photo: returns the network's input (H, W, 3).
    pub fn apply(&self, photo: &Photo) -> Vec<f32> {
        normalized(&self.crop(photo), &self.normalization, [0.0; CHANNELS])
    }

    /// Returns the crop's position on the original photo.
    pub fn window(&self, photo: &Photo) -> Window {
        let (width, height) = self.resized(photo);
        let start = |side: usize, crop: usize| {
            let (window, padding) = middle(side, crop);
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

/// The pixels of a side that lie within its centre crop, and the number of padding pixels before them.
fn middle(side: usize, crop: usize) -> (Range<usize>, usize) {
    if crop > side {
        return (0..side, (crop - side) / 2);
    }
    let start = ((side - crop) as f64 / 2.0).round_ties_even() as usize;
    (start..start + crop, 0)
}
