//! What range each map's numbers are in, learnt from images: what a network in eight bits has to know.

use crate::error::{Error, Result};
use resnext_ops::{Activations, Quantization};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What has been seen of a network's maps.
#[derive(Debug, Default)]
pub struct Calibration {
    maps: BTreeMap<String, Histogram>,
}

/// The ranges of a network's maps, by the names of the layers that write them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges(BTreeMap<String, Range>);

/// The range of a map's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// The largest, or what larger ones become.
    pub largest: f32,
    /// Whether it begins at `-largest`, not at 0.
    pub signed: bool,
}

impl Calibration {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the map that a layer has written, which may have negative numbers or not.
    pub(crate) fn see(&mut self, name: &str, map: &Activations, signed: bool) {
        let histogram = self.maps.entry(name.to_string()).or_default();
        histogram.signed |= signed;
        map.values().for_each(|value| histogram.add(value));
    }

    /// The ranges that lose least: where a few numbers are far beyond all others, what is lost by cutting them off is less
    /// than what the others lose by larger steps.
    ///
    /// # Errors
    /// If a map had numbers that are not finite.
    pub fn ranges(&self) -> Result<Ranges> {
        let range = |(name, histogram): (&String, &Histogram)| match histogram.is_finite() {
            true => Ok((name.clone(), histogram.range())),
            false => Err(Error::Calibration(format!("expected finite numbers in the map {name}"))),
        };
        Ok(Ranges(self.maps.iter().map(range).collect::<Result<_>>()?))
    }
}

impl Ranges {
    /// Of how many maps.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How the map of a layer is kept in eight bits.
    pub(crate) fn quantization(&self, name: &str) -> Result<Quantization> {
        let Some(&Range { largest, signed }) = self.0.get(name) else {
            let message = format!("expected a range of the map {name}, of {} there is none", self.0.len());
            return Err(Error::Calibration(message));
        };
        let quantization =
            if signed { Quantization::signed(largest) } else { Quantization::positive(largest) };
        Ok(quantization.map_err(resnext_ops::Error::from)?)
    }
}

/// How often magnitudes were seen, by the upper 16 bits of their f32: in steps of less than a hundredth.
#[derive(Debug)]
struct Histogram {
    counts: Vec<u64>,
    signed: bool,
}

/// The first bin of what is not finite.
const INFINITY: usize = (f32::INFINITY.to_bits() >> 16) as usize;

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; 1 << 15], signed: false }
    }
}

impl Histogram {
    fn add(&mut self, value: f32) {
        self.counts[(value.abs().to_bits() >> 16) as usize] += 1;
    }

    fn is_finite(&self) -> bool {
        self.counts[INFINITY..].iter().all(|&count| count == 0)
    }

    /// What magnitudes of a bin are taken for.
    fn magnitude(bin: usize) -> f64 {
        f64::from(f32::from_bits((bin as u32) << 16))
    }

    /// That of the least squared error: a twelfth of a step's square for each number inside, and the square of what is
    /// missing for each beyond.
    fn range(&self) -> Range {
        let steps = if self.signed { 127.0 } else { 255.0 };
        // Zeros have no error.
        let inside: u64 = self.counts[1..].iter().sum();
        let (mut best, mut least) = (0.0, f64::INFINITY);
        // How many there are beyond, their sum and that of their squares.
        let mut beyond = [0.0; 3];
        for bin in (1..INFINITY).rev() {
            // Bins are open to the top: the next one's beginning holds all of this one.
            let largest = Self::magnitude(bin + 1);
            if beyond[0] > 0.0 || self.counts[bin] > 0 {
                let cut = beyond[2] - 2.0 * largest * beyond[1] + largest * largest * beyond[0];
                let error = (inside as f64 - beyond[0]) * (largest / steps).powi(2) / 12.0 + cut.max(0.0);
                if error < least {
                    (best, least) = (largest, error);
                }
            }
            let (count, magnitude) = (self.counts[bin] as f64, Self::magnitude(bin));
            beyond =
                [beyond[0] + count, beyond[1] + count * magnitude, beyond[2] + count * magnitude * magnitude];
        }
        Range { largest: best.min(f64::from(f32::MAX)) as f32, signed: self.signed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(values: impl IntoIterator<Item = f32>, signed: bool) -> Range {
        let mut histogram = Histogram { signed, ..Default::default() };
        values.into_iter().for_each(|value| histogram.add(value));
        histogram.range()
    }

    #[test]
    fn a_range_holds_what_is_common_and_cuts_off_what_is_rare() {
        let even = range((0..=1000).map(|i| i as f32 / 500.0), false);
        assert!(!even.signed && (1.9..2.05).contains(&even.largest), "{even:?}");
        let signed = range((-1000..=1000).map(|i| i as f32 / 500.0), true);
        assert!(signed.signed && (1.9..2.05).contains(&signed.largest), "{signed:?}");
        // One number in a million is ten times the others: to hold it, all of them would lose more than it does.
        let rare = range((0..1_000_000).map(|i| i as f32 / 1e6).chain([10.0]), false);
        assert!((1.0..9.0).contains(&rare.largest), "{rare:?}");
        assert_eq!(range([0.0, 0.0], false), Range { largest: 0.0, signed: false });
        assert_eq!(range([], true).largest, 0.0);
    }

    #[test]
    fn ranges_are_kept_as_text() {
        let ranges = Ranges(BTreeMap::from([("conv1".to_string(), Range { largest: 2.5, signed: false })]));
        let text = serde_json::to_string(&ranges).unwrap();
        assert_eq!(text, r#"{"conv1":{"largest":2.5,"signed":false}}"#);
        assert_eq!(serde_json::from_str::<Ranges>(&text).unwrap(), ranges);
        assert!(ranges.quantization("conv1").unwrap().zero() == 0);
        let error = ranges.quantization("layer1.0.conv1").unwrap_err().to_string();
        assert!(error.contains("layer1.0.conv1"), "{error}");
    }
}
