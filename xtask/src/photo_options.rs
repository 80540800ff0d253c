//! How photos are prepared: the recipe's table `[photos]`.

use anyhow::{Result, ensure};
use resnext_data::transform::color_jitter::ColorJitter;
use resnext_data::transform::crop::RandomResizedCrop;
use resnext_data::transform::erasing::{EraseFill, RandomErasing};
use resnext_data::transform::lighting::Lighting;
use resnext_data::transform::mix::Mix;
use resnext_data::transform::policy::Policy;
use resnext_data::transform::train::TrainTransform;
use resnext_data::{EvalTransform, ImageLoaderConfig, Interpolation, Normalization, Resize, ValidationSplit};
use serde::{Deserialize, Serialize};

/// How photos are prepared, for training and for evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PhotoOptions {
    /// Height and width of training crops, in pixels.
    pub size: usize,
    /// Height and width of crops in evaluation, in pixels.
    pub test_size: usize,
    /// The side of the crop in evaluation, as a share of the shorter side that photos are resized to.
    pub crop_pct: f64,
    /// `bilinear` or `bicubic`.
    #[serde(with = "InterpolationName")]
    pub interpolation: Interpolation,
    /// Mean and standard deviation of pixels scaled to [0, 1], which inputs are normalised with.
    pub mean: [f64; 3],
    pub std: [f64; 3],
    /// The share of each class's photos that is kept for validation, if the folder has none for it.
    pub validation: f64,
    /// Chooses those photos. It is not the run's seed, so that runs can be compared.
    pub split_seed: u64,
    /// The smallest and largest area of training crops, as shares of the photo's.
    pub area: [f64; 2],
    /// Whether training photos are flipped left to right half of the time.
    pub flip: bool,
    /// An augmentation policy: `trivial`, or one such as `rand-m9-mstd0.5-inc1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Random brightness, contrast and saturation, such as 0.4; 0 turns it off.
    pub jitter: f64,
    /// The deviation of random light, such as 0.1; 0 turns it off.
    pub lighting: f64,
    /// The probability that a rectangle of a training crop is erased.
    pub erase: f64,
    /// The filling of the rectangle: `zero`, or `pixel` for noise.
    #[serde(with = "EraseFillName")]
    pub erase_fill: EraseFill,
    /// How often each photo is used per epoch, augmented differently each time. An epoch keeps its number of images, so it
    /// has that many times fewer different photos.
    pub repeats: usize,
    /// Whether a photo that cannot be read is an error rather than left out.
    pub strict: bool,
    /// The names of the classes that a run has been trained on, in the order of its labels; empty before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
}

/// [`Interpolation`] as a recipe spells it.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Interpolation", rename_all = "lowercase")]
enum InterpolationName {
    Bilinear,
    Bicubic,
}

/// [`EraseFill`] as a recipe spells it.
#[derive(Serialize, Deserialize)]
#[serde(remote = "EraseFill", rename_all = "lowercase")]
enum EraseFillName {
    Zero,
    Pixel,
}

/// torchvision's preparation for ImageNet.
impl Default for PhotoOptions {
    fn default() -> Self {
        PhotoOptions {
            size: 224,
            test_size: 224,
            crop_pct: 0.875,
            interpolation: Interpolation::Bilinear,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            validation: 0.2,
            split_seed: 0,
            area: [0.08, 1.0],
            flip: true,
            policy: None,
            jitter: 0.0,
            lighting: 0.0,
            erase: 0.0,
            erase_fill: EraseFill::Pixel,
            repeats: 1,
            strict: false,
            classes: Vec::new(),
        }
    }
}

impl PhotoOptions {
    pub fn normalization(&self) -> Normalization {
        Normalization { mean: self.mean.map(|v| v as f32), std: self.std.map(|v| v as f32) }
    }

    pub fn split(&self) -> ValidationSplit {
        ValidationSplit { share: self.validation, seed: self.split_seed }
    }

    /// The settings of a loader of these photos.
    pub fn loader(
        &self,
        batch_size: usize,
        mix: Option<Mix>,
        seed: u64,
        threads: usize,
    ) -> ImageLoaderConfig {
        let PhotoOptions { repeats, strict, .. } = *self;
        ImageLoaderConfig { batch_size, repeats, mix, seed, threads, strict }
    }

    /// How photos are prepared for evaluation.
    pub fn evaluation(&self) -> Result<EvalTransform> {
        for (name, side) in [("size", self.size), ("test_size", self.test_size)] {
            ensure!((1..=1 << 13).contains(&side), "{name} must be from 1 to 8192, got {side}");
        }
        ensure!(
            self.crop_pct > 0.0 && self.crop_pct <= 1.0,
            "crop_pct must be above 0 and at most 1, got {}",
            self.crop_pct
        );
        let transform = EvalTransform {
            resize: Resize::Shorter((self.test_size as f64 / self.crop_pct).floor() as usize),
            crop: (self.test_size, self.test_size),
            interpolation: self.interpolation,
            normalization: self.normalization(),
        };
        transform.validate()?;
        Ok(transform)
    }

    /// How photos are prepared for training; without augmentation, from the middle of each photo.
    pub fn training(&self, augment: bool) -> Result<TrainTransform> {
        let size = (self.size, self.size);
        let mut transform = TrainTransform::new(size, self.interpolation, self.normalization());
        if !augment {
            // A rectangle of the whole area fits only if the photo is square; the central square is taken.
            transform.crop = RandomResizedCrop { area: (1.0, 1.0), aspect: (1.0, 1.0) };
            transform.flip = false;
            return Ok(transform);
        }
        let Self { jitter, .. } = *self;
        transform.crop.area = (self.area[0], self.area[1]);
        transform.flip = self.flip;
        transform.policy = self.policy.as_deref().map(str::parse::<Policy>).transpose()?;
        transform.jitter = (jitter != 0.0).then_some(ColorJitter {
            brightness: jitter,
            contrast: jitter,
            saturation: jitter,
        });
        transform.lighting = (self.lighting != 0.0).then_some(Lighting { deviation: self.lighting });
        transform.erasing = (self.erase != 0.0).then(|| RandomErasing::new(self.erase, self.erase_fill));
        transform.validate()?;
        Ok(transform)
    }
}
