//! The options of the command line that concern photos.

use crate::photo_options::PhotoOptions;
use clap::{Args, ValueEnum};
use resnext_data::Interpolation;
use resnext_data::transform::erasing::EraseFill;

/// The settings for photos that the command line can override.
#[derive(Args, Debug, Default, Clone, PartialEq)]
pub struct PhotoOverrides {
    /// Photos: height and width of training crops, in pixels [default: chosen for the network]
    #[arg(long)]
    size: Option<usize>,
    /// Photos: height and width of crops in evaluation, in pixels [default: --size]
    #[arg(long)]
    test_size: Option<usize>,
    /// Photos: side of the crop in evaluation, as a share of the shorter side that photos are resized to
    #[arg(long)]
    crop_pct: Option<f64>,
    /// Photos: filter for resizing, bilinear or bicubic
    #[arg(long, value_parser = interpolation)]
    interpolation: Option<Interpolation>,
    /// Photos: share of each class kept for validation, for data without photos for it [default: 0.2]
    #[arg(long)]
    validation: Option<f64>,
    /// Photos: chooses which ones are kept for validation [default: 0]
    #[arg(long)]
    split_seed: Option<u64>,
    /// Photos: smallest and largest share of a photo's area in a training crop, such as 0.08,1
    #[arg(long, value_parser = area)]
    area: Option<[f64; 2]>,
    /// Photos: whether half of the training crops are flipped left to right
    #[arg(long)]
    flip: Option<bool>,
    /// Photos: augmentation policy, trivial or one such as rand-m9-mstd0.5-inc1, or none
    #[arg(long)]
    policy: Option<String>,
    /// Photos: random brightness, contrast and saturation, such as 0.4, or 0 for off
    #[arg(long)]
    jitter: Option<f64>,
    /// Photos: deviation of random light along the main colours, such as 0.1, or 0 for off
    #[arg(long)]
    lighting: Option<f64>,
    /// Photos: probability that a rectangle of a training crop is erased
    #[arg(long)]
    erase: Option<f64>,
    /// Photos: what it is filled with: zero (the mean colour) or pixel (noise)
    #[arg(long, value_enum)]
    erase_fill: Option<FillName>,
    /// Photos: how often each one is used per epoch, augmented anew; with 3, an epoch has a third of the photos
    #[arg(long)]
    repeats: Option<usize>,
    /// Photos: end with an error at a photo that cannot be read [default: leave it out, and say so]
    #[arg(long)]
    strict: bool,
}

/// [`EraseFill`] as the command line spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FillName {
    Zero,
    Pixel,
}

impl PhotoOverrides {
    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        *self == PhotoOverrides::default()
    }

    /// The option that chooses photos for validation, if one is given.
    pub fn of_split(&self) -> Option<&'static str> {
        match (self.validation, self.split_seed) {
            (Some(_), _) => Some("--validation"),
            (None, Some(_)) => Some("--split-seed"),
            (None, None) => None,
        }
    }

    /// Whether the side of training crops is given.
    pub fn has_size(&self) -> bool {
        self.size.is_some()
    }

    /// Replaces settings by those of the command line.
    pub fn apply(&self, options: &mut PhotoOptions) {
        fn set<T: Copy>(field: &mut T, value: Option<T>) {
            *field = value.unwrap_or(*field);
        }
        set(&mut options.size, self.size);
        set(&mut options.test_size, self.test_size.or(self.size));
        set(&mut options.crop_pct, self.crop_pct);
        set(&mut options.interpolation, self.interpolation);
        set(&mut options.validation, self.validation);
        set(&mut options.split_seed, self.split_seed);
        set(&mut options.area, self.area);
        set(&mut options.flip, self.flip);
        set(&mut options.jitter, self.jitter);
        set(&mut options.lighting, self.lighting);
        set(&mut options.erase, self.erase);
        set(&mut options.repeats, self.repeats);
        if let Some(fill) = self.erase_fill {
            options.erase_fill = match fill {
                FillName::Zero => EraseFill::Zero,
                FillName::Pixel => EraseFill::Pixel,
            };
        }
        if let Some(policy) = &self.policy {
            options.policy = (policy != "none").then(|| policy.clone());
        }
        options.strict |= self.strict;
    }
}

fn interpolation(text: &str) -> Result<Interpolation, String> {
    Interpolation::named(text).ok_or_else(|| "expected bilinear or bicubic".into())
}

fn area(text: &str) -> Result<[f64; 2], String> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some([low, high]) => Ok([*low, *high]),
        _ => Err("expected two numbers such as 0.08,1".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        photos: PhotoOverrides,
    }

    #[test]
    fn options_change_what_they_name_and_nothing_else() {
        let given = |args: &str| Cli::try_parse_from(args.split(' ')).map(|cli| cli.photos);
        assert!(given("x").unwrap().is_empty());
        let all = given(
            "x --size 96 --crop-pct 0.9 --interpolation bicubic --split-seed 4 --area 0.25,1 --flip false --policy \
             trivial --jitter 0.3 --lighting 0.1 --erase 0.2 --erase-fill zero --repeats 3 --strict",
        )
        .unwrap();
        let mut options = PhotoOptions { policy: Some("rand-m9".into()), ..PhotoOptions::default() };
        all.apply(&mut options);
        let expected = PhotoOptions {
            size: 96,
            test_size: 96,
            crop_pct: 0.9,
            interpolation: Interpolation::Bicubic,
            split_seed: 4,
            area: [0.25, 1.0],
            flip: false,
            policy: Some("trivial".into()),
            jitter: 0.3,
            lighting: 0.1,
            erase: 0.2,
            erase_fill: EraseFill::Zero,
            repeats: 3,
            strict: true,
            ..PhotoOptions::default()
        };
        assert_eq!(options, expected);
        given("x --policy none --test-size 128").unwrap().apply(&mut options);
        assert_eq!(options, PhotoOptions { policy: None, test_size: 128, ..expected });
        for (args, message) in [
            ("x --area 0.2", "expected two numbers"),
            ("x --interpolation nearest", "expected bilinear or bicubic"),
        ] {
            let error = given(args).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
