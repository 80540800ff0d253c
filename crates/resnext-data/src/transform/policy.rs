//! Augmentation policies by name, in timm's notation.

use super::rand_augment::RandAugment;
use super::trivial_augment::TrivialAugment;
use crate::error::Error;
use crate::photo::Photo;
use rand::Rng;
use std::str::FromStr;

/// An automatic augmentation policy.
///
/// By name it is `trivial` or, as in timm, `rand` followed by settings with a hyphen before each: `m9` (the
/// magnitude), `n2` (operations per image), `mstd0.5` (the magnitude's deviation) and `inc1` (increasing).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Policy {
    /// One operation of any strength.
    Trivial(TrivialAugment),
    /// Several operations of about the same strength.
    Rand(RandAugment),
}

impl Policy {
    /// Changes `image`.
    pub fn apply(&self, image: &mut Photo, rng: &mut impl Rng) {
        match self {
            Policy::Trivial(policy) => policy.apply(image, rng),
            Policy::Rand(policy) => policy.apply(image, rng),
        }
    }
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "trivial" {
            return Ok(Policy::Trivial(TrivialAugment::default()));
        }
        let unknown = || {
            Error::Transform(format!(
                "expected the policy trivial, or one such as rand-m9-mstd0.5-inc1, got {text}"
            ))
        };
        let mut parts = text.split('-');
        if parts.next() != Some("rand") {
            return Err(unknown());
        }
        let mut policy = RandAugment::default();
        for part in parts {
            let digits = part.find(|c: char| !c.is_ascii_lowercase()).ok_or_else(unknown)?;
            let (name, value) = part.split_at(digits);
            let number: f64 = value.parse().map_err(|_| unknown())?;
            let count = || value.parse::<usize>().map_err(|_| unknown());
            match name {
                "m" => policy.magnitude = number,
                "mstd" => policy.deviation = number,
                "n" => policy.operations = count()?,
                "inc" => policy.increasing = count()? != 0,
                _ => return Err(unknown()),
            }
        }
        Ok(Policy::Rand(policy))
    }
}
