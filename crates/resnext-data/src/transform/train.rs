//! From a photo to a network's input in training: a random crop, a flip, random colours, normalisation, erasing.

use super::color_jitter::ColorJitter;
use super::crop::{Part, RandomResizedCrop, Rectangle};
use super::erasing::RandomErasing;
use super::lighting::Lighting;
use super::policy::Policy;
use super::rand_augment::RandAugment;
use crate::dataset::Normalization;
use crate::decode::error::PhotoError;
use crate::error::{Error, Result};
use crate::normalize::normalized;
use crate::photo::Photo;
use crate::resample::{Interpolation, resample_part};
use rand::{Rng, RngExt};

/// The preparation of a training photo; its steps run in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainTransform {
    /// Which part of the photo is taken.
    pub crop: RandomResizedCrop,
    /// Height and width that the part is resized to, in pixels.
    pub size: (usize, usize),
    /// The resampling filter.
    pub interpolation: Interpolation,
    /// Whether each photo is flipped left to right with probability 1/2.
    pub flip: bool,
    /// An augmentation policy.
    pub policy: Option<Policy>,
    /// Random brightness, contrast and saturation.
    pub jitter: Option<ColorJitter>,
    /// Random light, added before normalisation.
    pub lighting: Option<Lighting>,
    /// The network's input normalisation.
    pub normalization: Normalization,
    /// Random erasing, after normalisation.
    pub erasing: Option<RandomErasing>,
}

impl TrainTransform {
    /// A random crop to `size` and a flip, without changes of colour.
    pub fn new(size: (usize, usize), interpolation: Interpolation, normalization: Normalization) -> Self {
        TrainTransform {
            crop: RandomResizedCrop::default(),
            size,
            interpolation,
            flip: true,
            policy: None,
            jitter: None,
            lighting: None,
            normalization,
            erasing: None,
        }
    }

    /// Checks that sizes, ranges and probabilities make sense.
    ///
    /// # Errors
    /// [`Error::Transform`], which names the setting and its range.
    pub fn validate(&self) -> Result<()> {
        let failed = |problem: String| Err(Error::Transform(problem));
        let range = |(low, high): (f64, f64)| low > 0.0 && low <= high && high.is_finite();
        if !range(self.crop.area) || self.crop.area.1 > 1.0 {
            return failed(format!(
                "the crop's area must be above 0 and at most 1, got {:?}",
                self.crop.area
            ));
        }
        if !range(self.crop.aspect) {
            return failed(format!("the crop's ratios must be above 0, got {:?}", self.crop.aspect));
        }
        if let Some(jitter) = self.jitter {
            for range in [jitter.brightness, jitter.contrast, jitter.saturation] {
                if !(range >= 0.0 && range.is_finite()) {
                    return failed(format!("colour jitter must be at least 0, got {range}"));
                }
            }
        }
        if let Some(Lighting { deviation }) = self.lighting
            && !(deviation >= 0.0 && deviation.is_finite())
        {
            return failed(format!("lighting must be at least 0, got {deviation}"));
        }
        if let Some(Policy::Rand(RandAugment { operations, magnitude, deviation, .. })) = self.policy
            && !(operations <= 100 && (0.0..=10.0).contains(&magnitude) && deviation >= 0.0)
        {
            return failed(format!(
                "RandAugment takes a magnitude from 0 to 10, a deviation of at least 0 and at most 100 \
                 operations, got {magnitude}, {deviation} and {operations}"
            ));
        }
        if let Some(erasing) = self.erasing
            && !((0.0..=1.0).contains(&erasing.probability) && range(erasing.area) && range(erasing.aspect))
        {
            return failed(format!(
                "erasing must have a probability from 0 to 1, got {}",
                erasing.probability
            ));
        }
        Ok(())
    }

    /// Prepares a photo; `rng` decides everything that is random. Returns the network's input (H, W, 3).
    pub fn apply(&self, photo: &Photo, rng: &mut impl Rng) -> Vec<f32> {
        let part = self.crop.choose((photo.width(), photo.height()), rng);
        self.finish(self.resized(photo, &Part::of(&part)), rng)
    }

    /// Decodes and prepares a photo, like [`apply`](Self::apply) on a decoded one, but a JPEG is decoded with no more pixels
    /// than the crop needs: if the crop is at least two, four or eight times as large as the input, the decoder gives a
    /// picture with a half, a quarter or an eighth of the photo's height and width. The input is then a little softer than
    /// from all pixels; the crop, the colours and everything else that `rng` decides are the same.
    ///
    /// # Errors
    /// The same as [`Photo::decode`].
    pub fn decode(&self, bytes: &[u8], rng: &mut impl Rng) -> std::result::Result<Vec<f32>, PhotoError> {
        let mut chosen = None;
        let mut choose = |size| {
            let part = self.crop.choose(size, rng);
            chosen = Some(part);
            self.reduction(&part)
        };
        let reduced = Photo::decode_reduced(bytes, &mut choose)?;
        let photo = &reduced.photo;
        let part = chosen.unwrap_or_else(|| self.crop.choose((photo.width(), photo.height()), rng));
        Ok(self.finish(self.resized(photo, &Part::of(&part).reduced(&reduced)), rng))
    }

    /// The divisor by which a photo's sides may be reduced before `part` of it is resized: 8, 4, 2 or 1.
    fn reduction(&self, part: &Rectangle) -> usize {
        let (height, width) = self.size;
        let fits = |&by: &usize| part.width >= by * width && part.height >= by * height;
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// Everything after the crop.
    fn finish(&self, mut image: Photo, rng: &mut impl Rng) -> Vec<f32> {
        if self.flip && rng.random::<bool>() {
            flip(&mut image);
        }
        if let Some(policy) = self.policy {
            policy.apply(&mut image, rng);
        }
        if let Some(jitter) = self.jitter {
            jitter.apply(&mut image, rng);
        }
        let light = self.lighting.map_or([0.0; 3], |lighting| lighting.choose(rng));
        let mut input = normalized(image.pixels(), &self.normalization, light);
        if let Some(erasing) = self.erasing {
            erasing.apply(&mut input, self.size, rng);
        }
        input
    }

    /// A part of the photo, resized.
    fn resized(&self, photo: &Photo, part: &Part) -> Photo {
        let (height, width) = self.size;
        let pixels = resample_part(photo, part, (width, height), 0..width, 0..height, self.interpolation);
        Photo::new(width, height, pixels).unwrap_or_else(|| photo.clone())
    }
}

/// Flips an image left to right.
fn flip(image: &mut Photo) {
    let line = 3 * image.width();
    for row in image.pixels_mut().chunks_exact_mut(line) {
        let (mut left, mut right) = (0, line - 3);
        while left < right {
            for c in 0..3 {
                row.swap(left + c, right + c);
            }
            (left, right) = (left + 3, right - 3);
        }
    }
}
