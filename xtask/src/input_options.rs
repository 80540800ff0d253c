//! Options that override how images are prepared for a network and what its classes are called.

use anyhow::{Context, Result, bail, ensure};
use resnext_model::{CropMode, Pretrained};
use serde_json::Value;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug, Default)]
pub struct InputOptions {
    /// Shorter side in pixels that images are resized to before the central crop [default: the weights' own]
    #[arg(long, conflicts_with = "crop_pct")]
    resize: Option<usize>,
    /// Height and width of the central crop in pixels [default: the weights' own]
    #[arg(long)]
    size: Option<usize>,
    /// Side of the central crop as a fraction of the resized side, from 0 to 1
    #[arg(long)]
    crop_pct: Option<f64>,
    /// How an image of another shape is fitted: center crops it, squash distorts it, border pads it
    #[arg(long)]
    crop_mode: Option<CropMode>,
    /// Filter for resizing: bilinear or bicubic
    #[arg(long)]
    interpolation: Option<String>,
    /// Mean of red, green and blue, of pixels from 0 to 1, such as 0.485,0.456,0.406
    #[arg(long, value_parser = three_numbers, allow_hyphen_values = true)]
    mean: Option<[f32; 3]>,
    /// Standard deviation of red, green and blue, such as 0.229,0.224,0.225
    #[arg(long, value_parser = three_numbers, allow_hyphen_values = true)]
    std: Option<[f32; 3]>,
    /// File with the names of the classes: one per line, or JSON
    #[arg(long)]
    labels: Option<PathBuf>,
}

impl InputOptions {
    /// Overrides the preprocessing and labels of a network.
    ///
    /// # Errors
    /// If a value is out of range, or the file of labels does not have one per class.
    pub fn apply(&self, pretrained: &mut Pretrained) -> Result<()> {
        let preprocessing = &mut pretrained.preprocessing;
        if let Some(size) = self.size {
            ensure!(size > 0, "--size must be at least 1, got {size}");
            preprocessing.size = (size, size);
        }
        if let Some(resize) = self.resize {
            ensure!(resize > 0, "--resize must be at least 1, got {resize}");
            ensure!(resize <= 8192, "--resize must be at most 8192, got {resize}");
            preprocessing.set_resize(resize);
        }
        if let Some(crop_pct) = self.crop_pct {
            ensure!(
                crop_pct > 0.0 && crop_pct <= 1.0,
                "--crop-pct must be above 0 and at most 1, got {crop_pct}"
            );
            preprocessing.crop_pct = crop_pct;
        }
        preprocessing.crop_mode = self.crop_mode.unwrap_or(preprocessing.crop_mode);
        preprocessing.mean = self.mean.unwrap_or(preprocessing.mean);
        preprocessing.std = self.std.unwrap_or(preprocessing.std);
        if let Some(interpolation) = &self.interpolation {
            preprocessing.interpolation = interpolation.clone();
        }
        preprocessing.check().map_err(|problem| anyhow::anyhow!("--{}", problem.replace('_', "-")))?;
        pretrained.preprocessing_is_assumed &= !self.normalizes();
        if let Some(path) = &self.labels {
            pretrained.labels = Some(labels(path, pretrained.network.classes())?);
        }
        Ok(())
    }

    /// Whether the options say how pixels are normalised.
    pub fn normalizes(&self) -> bool {
        self.mean.is_some() && self.std.is_some()
    }
}

/// Parses three numbers, or one that holds for all three channels.
fn three_numbers(text: &str) -> Result<[f32; 3], String> {
    let wrong = || format!("expected three numbers such as 0.485,0.456,0.406, got {text}");
    let parts = text.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty());
    let numbers = parts.map(|part| part.parse::<f32>().ok().filter(|number| number.is_finite()));
    match *numbers.collect::<Option<Vec<f32>>>().ok_or_else(wrong)?.as_slice() {
        [red, green, blue] => Ok([red, green, blue]),
        [all] => Ok([all; 3]),
        _ => Err(wrong()),
    }
}

/// Reads the names of `classes` classes: one per line, a JSON list, or a JSON object from class numbers to
/// names, or to lists that end with the name.
fn labels(path: &Path, classes: usize) -> Result<Vec<String>> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(shown)?;
    let text = text.trim_start_matches('\u{feff}');
    let names: Vec<String> = match text.trim_start().starts_with(['[', '{']) {
        true => match serde_json::from_str(text).with_context(shown)? {
            Value::Array(items) => items.iter().map(name).collect::<Option<_>>(),
            Value::Object(items) => {
                (0..items.len()).map(|class| name(items.get(&class.to_string())?)).collect::<Option<_>>()
            }
            _ => None,
        }
        .with_context(|| {
            format!("{}: expected a list of names, or an object from 0, 1, … to names", shown())
        })?,
        false => text.lines().map(|line| line.trim().to_string()).collect(),
    };
    let blank = names.iter().rev().take_while(|name| name.is_empty()).count();
    let names = &names[..names.len() - blank];
    if names.len() != classes {
        bail!("{}: expected the names of {classes} classes, got {}", shown(), names.len());
    }
    if let Some(class) = names.iter().position(String::is_empty) {
        bail!("{}: class {class} has no name", shown());
    }
    Ok(names.to_vec())
}

/// A name in JSON: a text, or the last of several, as in torchvision's list of ImageNet.
fn name(value: &Value) -> Option<String> {
    match value {
        Value::String(name) => Some(name.trim().to_string()),
        Value::Array(names) => Some(names.last()?.as_str()?.to_string()),
        _ => None,
    }
}
