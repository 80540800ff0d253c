//! Mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899): each image of a batch is
//! mixed with the one before it, the first with the last.

use super::crop::Rectangle;
use crate::error::{Error, Result};
use crate::random_stream::of_batch;
use rand::{Rng, RngExt};
use std::ops::Range;

/// How the images of a batch are mixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    /// The parameter of mixup's Beta distribution, such as 0.2; 0 turns mixup off.
    pub mixup: f64,
    /// The parameter of CutMix's Beta distribution, such as 1; 0 turns CutMix off.
    pub cutmix: f64,
    /// The probability that a batch is mixed at all, from 0 to 1.
    pub probability: f64,
    /// Where both are on, the probability of CutMix, from 0 to 1.
    pub switch: f64,
    /// The first epoch, from 0, in which nothing is mixed any more; `None` mixes in all.
    pub until: Option<u64>,
}

/// The second label of each image of a mixed batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixed {
    /// The labels of the images that were mixed in, (N).
    pub labels: Vec<u32>,
    /// The share of each image's own label, from 0 to 1; the other label has the rest.
    pub own: f32,
}

impl Mixed {
    /// The targets (N, `classes`) of a batch with these `own` labels: each row has the share of the image's own
    /// label and the rest of the other one, or 1 if both are the same.
    pub(crate) fn targets(&self, own: &[u32], classes: usize) -> Vec<f32> {
        let mut rows = vec![0.0; own.len() * classes];
        for ((row, &label), &other) in rows.chunks_exact_mut(classes.max(1)).zip(own).zip(&self.labels) {
            for (label, share) in [(label, self.own), (other, 1.0 - self.own)] {
                if let Some(target) = row.get_mut(label as usize) {
                    *target += share;
                }
            }
        }
        rows
    }
}

/// Where a batch lies in a run, which decides how it is mixed.
#[derive(Debug, Clone)]
pub(crate) struct Position {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The positions of the batch's images in the epoch's order, those of all processes that share it.
    pub batch: Range<usize>,
}

/// The mixing of one batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mixing {
    /// Each image times this share, plus its partner times the rest.
    Blend(f32),
    /// This rectangle of each image is its partner's.
    Paste(Rectangle),
}

impl Mix {
    /// Checks that probabilities are from 0 to 1 and parameters at least 0.
    ///
    /// # Errors
    /// [`Error::Transform`], which names the setting.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            // Jöhnk's method, with which Beta numbers are drawn, gets slow far above 1.
            if !(0.0..=8.0).contains(&value) {
                return Err(Error::Transform(format!("{name} must be from 0 to 8, got {value}")));
            }
        }
        for (name, value) in [("mix probability", self.probability), ("mix switch", self.switch)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::Transform(format!("{name} must be from 0 to 1, got {value}")));
            }
        }
        Ok(())
    }

    /// Mixes a batch of normalised images (N, H, W, 3) of `size` (H, W), or this process's part of it, unless it is one
    /// that stays as it is. A single image has no partner. All processes do the same to their parts: one that has a
    /// single image of a batch that is mixed mixes it with itself.
    pub(crate) fn apply(
        &self,
        images: &mut [f32],
        labels: &[u32],
        size: (usize, usize),
        at: Position,
    ) -> Option<Mixed> {
        if at.batch.len() < 2 || labels.is_empty() {
            return None;
        }
        let mixing = self.choose(at.epoch, size, &mut of_batch(at.seed, at.epoch, at.batch.start as u64))?;
        Some(mixing.apply(images, labels, size))
    }

    /// Chooses what to do to a batch of images of `size` (height, width) in `epoch`.
    pub fn choose(&self, epoch: u64, size: (usize, usize), rng: &mut impl Rng) -> Option<Mixing> {
        let off = self.until.is_some_and(|until| epoch >= until) || (self.mixup == 0.0 && self.cutmix == 0.0);
        if off || rng.random::<f64>() >= self.probability {
            return None;
        }
        let paste = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (true, true) => rng.random::<f64>() < self.switch,
            (_, cutmix) => cutmix,
        };
        if !paste {
            return Some(Mixing::Blend(beta(self.mixup, rng) as f32));
        }
        // A rectangle of the image's own ratio about a random centre, cut off at the edges.
        let half = 0.5 * (1.0 - beta(self.cutmix, rng)).sqrt();
        let mut side = |side: usize| {
            let (centre, half) = (rng.random_range(0..side), (half * side as f64) as usize);
            (centre.saturating_sub(half), (centre + half).min(side))
        };
        let ((top, bottom), (left, right)) = (side(size.0), side(size.1));
        (bottom > top && right > left)
            .then(|| Mixing::Paste(Rectangle { left, top, width: right - left, height: bottom - top }))
    }
}

impl Mixing {
    /// Mixes normalised images (N, H, W, 3) of `size` (H, W), and returns the labels that came in.
    pub fn apply(self, images: &mut [f32], labels: &[u32], (height, width): (usize, usize)) -> Mixed {
        let len = 3 * height * width;
        let count = labels.len();
        let partner = |i: usize| (i + count - 1) % count;
        let own = match self {
            Mixing::Blend(share) => share,
            Mixing::Paste(Rectangle { width: w, height: h, .. }) => {
                1.0 - (w * h) as f32 / (width * height) as f32
            }
        };
        if count == 1 {
            return Mixed { labels: labels.to_vec(), own };
        }
        // From the last image to the first, so that each still finds its partner unchanged; the first one's
        // partner, which is the last, is kept.
        let last = images.get((count.max(1) - 1) * len..).map(<[f32]>::to_vec).unwrap_or_default();
        for i in (0..count).rev() {
            let (before, from) = images.split_at_mut(i * len);
            let image = &mut from[..len];
            let other = if i == 0 { &last[..] } else { &before[partner(i) * len..] };
            match self {
                Mixing::Blend(share) => {
                    for (value, other) in image.iter_mut().zip(other) {
                        *value = *value * share + *other * (1.0 - share);
                    }
                }
                Mixing::Paste(Rectangle { left, top, width: w, height: h }) => {
                    for y in top..top + h {
                        let row = 3 * (y * width + left)..3 * (y * width + left + w);
                        image[row.clone()].copy_from_slice(&other[row]);
                    }
                }
            }
        }
        Mixed { labels: (0..count).map(|i| labels[partner(i)]).collect(), own }
    }
}

/// A number of the distribution Beta(a, a), by Jöhnk's method.
fn beta(a: f64, rng: &mut impl Rng) -> f64 {
    // Exponents 1/a of small numbers vanish, so the ratio is computed from logarithms.
    loop {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        let (x, y) = (u.ln() / a, v.ln() / a);
        let largest = x.max(y);
        if !largest.is_finite() {
            continue;
        }
        let sum = largest + ((x - largest).exp() + (y - largest).exp()).ln();
        if sum <= 0.0 {
            return (x - sum).exp();
        }
    }
}
