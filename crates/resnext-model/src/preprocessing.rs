//! How images are prepared for a network.

use crate::config::StemKind;
use serde::{Deserialize, Serialize};

/// How images are prepared for a network, in the terms of timm.
///
/// Serialised, it has the field names of timm's `pretrained_cfg`, with the size as `input_size`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Height and width of the network's input in pixels.
    #[serde(rename = "input_size", with = "input_size")]
    pub size: (usize, usize),
    /// The side of the central crop as a fraction of the side that photos are resized to; above 0. See
    /// [`resize`](Self::resize).
    pub crop_pct: f64,
    /// Which side of a photo is resized, and what becomes of its shape.
    #[serde(default)]
    pub crop_mode: CropMode,
    /// `bilinear` or `bicubic`.
    pub interpolation: String,
    /// The mean that is subtracted from pixels scaled to [0, 1], for red, green and blue.
    pub mean: [f32; 3],
    /// The standard deviation that pixels are then divided by, for red, green and blue.
    pub std: [f32; 3],
}

/// The filters that photos can be resized with.
const INTERPOLATIONS: [&str; 2] = ["bilinear", "bicubic"];

/// How a photo of another shape becomes the network's input: timm's `crop_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropMode {
    /// The shorter side is resized and the centre cropped: what lies outside is lost.
    #[default]
    Center,
    /// Both sides are resized, whatever the photo's shape, and the centre is cropped.
    Squash,
    /// The longer side is resized, and the rest of the input is filled with the mean colour.
    Border,
}

impl std::str::FromStr for CropMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "center" => Ok(CropMode::Center),
            "squash" => Ok(CropMode::Squash),
            "border" => Ok(CropMode::Border),
            other => Err(format!("expected center, squash or border, got {other}")),
        }
    }
}

impl std::fmt::Display for CropMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CropMode::Center => "center",
            CropMode::Squash => "squash",
            CropMode::Border => "border",
        })
    }
}

impl Preprocessing {
    /// The usual preprocessing of networks with this stem: torchvision's for ImageNet (resize to 256, central
    /// crop of 224, bilinear, mean and standard deviation of ImageNet), or whole 32×32 images with those of
    /// CIFAR-10.
    pub fn usual(stem: StemKind) -> Self {
        match stem {
            StemKind::ImageNet => Preprocessing {
                size: (224, 224),
                crop_pct: 0.875,
                crop_mode: CropMode::Center,
                interpolation: "bilinear".into(),
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
            },
            StemKind::Cifar => Preprocessing {
                size: (32, 32),
                crop_pct: 1.0,
                crop_mode: CropMode::Center,
                interpolation: "bilinear".into(),
                mean: [0.4914, 0.4822, 0.4465],
                std: [0.2470, 0.2435, 0.2616],
            },
        }
    }

    /// Checks that an image can be prepared like this.
    ///
    /// # Errors
    /// A text that names the setting, its range and the value.
    pub fn check(&self) -> Result<(), String> {
        let Preprocessing { size: (height, width), crop_pct, interpolation, mean, std, .. } = self;
        if *height == 0 || *width == 0 {
            return Err(format!("input_size must have sides of at least one pixel, got {height}×{width}"));
        }
        if !(*crop_pct > 0.0 && crop_pct.is_finite()) {
            return Err(format!("crop_pct must be above 0, got {crop_pct}"));
        }
        if !INTERPOLATIONS.contains(&interpolation.as_str()) {
            let known = INTERPOLATIONS.join(" or ");
            return Err(format!("interpolation must be {known}, got {}", interpolation.escape_debug()));
        }
        if !mean.iter().all(|m| m.is_finite()) {
            return Err(format!("mean must be finite, got {mean:?}"));
        }
        if !std.iter().all(|s| s.is_finite() && *s > 0.0) {
            return Err(format!("std must be above 0, got {std:?}"));
        }
        for (name, values) in [("mean", mean), ("std", std)] {
            if values.iter().any(|&value| value > 1.0) {
                return Err(format!("{name} must be of pixels from 0 to 1, got {values:?}: divide by 255"));
            }
        }
        Ok(())
    }

    /// Height and width, in pixels, that photos are resized to before the crop, as timm rounds them. With
    /// [`CropMode::Squash`] a photo takes both; with [`CropMode::Center`] it covers both with the smaller
    /// excess, and with [`CropMode::Border`] it fits into both.
    pub fn scaled(&self) -> (usize, usize) {
        let scaled = |side: usize| (side as f64 / self.crop_pct).floor() as usize;
        (scaled(self.size.0), scaled(self.size.1))
    }

    /// The shorter side, in pixels, that photos are resized to.
    pub fn resize(&self) -> usize {
        let (height, width) = self.scaled();
        height.min(width)
    }

    /// Sets the crop's fraction so that [`resize`](Self::resize) gives `side` pixels, which must be above 0.
    pub fn set_resize(&mut self, side: usize) {
        self.crop_pct = self.size.0.min(self.size.1) as f64 / side as f64;
        // The quotient of rounded numbers may lie just below the integer.
        while self.resize() < side && self.crop_pct > 0.0 {
            self.crop_pct = self.crop_pct.next_down();
        }
    }
}

impl std::fmt::Display for Preprocessing {
    /// One line, for example `224×224 of 256, bilinear, mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Preprocessing { size: (height, width), crop_mode, interpolation, mean, std, .. } = self;
        write!(f, "{height}×{width} of {}, ", self.resize())?;
        if *crop_mode != CropMode::Center {
            write!(f, "crop mode {crop_mode}, ")?;
        }
        write!(f, "{interpolation}, mean {mean:?}, std {std:?}")
    }
}

/// The size as timm writes it: channels, height and width.
mod input_size {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(size: &(usize, usize), to: S) -> Result<S::Ok, S::Error> {
        (3, size.0, size.1).serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<(usize, usize), D::Error> {
        match <(usize, usize, usize)>::deserialize(from)? {
            (3, height, width) => Ok((height, width)),
            (channels, ..) => Err(D::Error::custom(format!("expected 3 channels, got {channels}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resize_is_met_exactly_for_every_crop() {
        for crop in [1, 32, 224, 288, 299, 320] {
            for side in 1..700 {
                let mut preprocessing =
                    Preprocessing { size: (crop, crop + 7), ..Preprocessing::usual(StemKind::ImageNet) };
                preprocessing.set_resize(side);
                assert_eq!(preprocessing.resize(), side, "crop {crop}");
            }
        }
    }

    #[test]
    fn a_normalisation_of_pixels_up_to_255_is_refused() {
        let usual = Preprocessing::usual(StemKind::ImageNet);
        let (mean, std) = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);
        let error = Preprocessing { mean, ..usual.clone() }.check().unwrap_err();
        assert_eq!(error, "mean must be of pixels from 0 to 1, got [123.675, 116.28, 103.53]: divide by 255");
        assert!(
            Preprocessing { std, ..usual.clone() }.check().unwrap_err().contains("std must be of pixels")
        );
        assert_eq!(Preprocessing { mean: [0.0; 3], std: [1.0; 3], ..usual }.check(), Ok(()));
    }

    #[test]
    fn it_is_written_in_timms_terms_and_read_again() {
        let preprocessing =
            Preprocessing { crop_mode: CropMode::Border, ..Preprocessing::usual(StemKind::ImageNet) };
        let text = serde_json::to_string(&preprocessing).unwrap();
        assert!(
            text.starts_with(r#"{"input_size":[3,224,224],"crop_pct":0.875,"crop_mode":"border""#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Preprocessing>(&text).unwrap(), preprocessing);
        let grey = serde_json::from_str::<Preprocessing>(&text.replace("[3,", "[1,"));
        assert!(grey.unwrap_err().to_string().contains("expected 3 channels, got 1"));
        assert_eq!(
            preprocessing.to_string(),
            "224×224 of 256, crop mode border, bilinear, mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]"
        );
    }
}
