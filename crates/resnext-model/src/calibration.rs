//! Calibration: the range of each feature map, found on images. An int8 network is built from these ranges.

use crate::error::{Error, Result};
use resnext_ops::{FeatureMap, Quantization};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Histograms of a network's feature maps, filled by [`Fused::calibrate`](crate::infer::Fused::calibrate).
#[derive(Debug, Default)]
pub struct Calibration {
    maps: BTreeMap<String, Histogram>,
}

/// The ranges of a network's feature maps, by the names of the layers that write them. In its serialised form
/// it is a table of [`Range`]s.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges(BTreeMap<String, Range>);

/// The range of a feature map's values: [0, largest], or [-largest, largest] if it is signed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a range, which has `largest` and `signed`")]
pub struct Range {
    /// The largest magnitude, at least 0. Values of larger magnitude are clipped to it.
    pub largest: f32,
    /// Whether the range starts at `-largest` rather than at 0.
    pub signed: bool,
}

impl Calibration {
    /// An empty calibration, before the first image.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the map that layer `name` has written. `signed` says whether it may have negative values.
    pub(crate) fn observe(&mut self, name: &str, map: &FeatureMap, signed: bool) {
        let histogram = self.maps.entry(name.to_string()).or_default();
        histogram.signed |= signed;
        map.values().for_each(|value| histogram.add(value));
    }

    /// The range of each map that minimises its squared quantisation error. Where a few values are far beyond
    /// all others, clipping them loses less than the larger steps would cost the others.
    ///
    /// # Errors
    /// [`Error::Calibration`] if a map had values that are not finite.
    pub fn ranges(&self) -> Result<Ranges> {
        let range = |(name, histogram): (&String, &Histogram)| match histogram.is_finite() {
            true => Ok((name.clone(), histogram.range())),
            false => Err(Error::Calibration(format!("expected finite numbers in the map {name}"))),
        };
        Ok(Ranges(self.maps.iter().map(range).collect::<Result<_>>()?))
    }
}

impl Ranges {
    /// The number of maps.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no maps.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The scale and zero point in int8 of the map that layer `name` writes.
    ///
    /// # Errors
    /// [`Error::Calibration`] if its range is missing, or is none.
    pub(crate) fn quantization(&self, name: &str) -> Result<Quantization> {
        let Some(&Range { largest, signed }) = self.0.get(name) else {
            let message =
                format!("expected the range of the map {name}, it is not among the {} ranges", self.0.len());
            return Err(Error::Calibration(message));
        };
        let quantization =
            if signed { Quantization::signed(largest) } else { Quantization::positive(largest) };
        quantization.map_err(|error| Error::Calibration(format!("the map {name}: {error}")))
    }
}

/// The number of values of each magnitude, by the upper 16 bits of their f32: bins are less than 1 % wide.
#[derive(Debug)]
struct Histogram {
    counts: Vec<u64>,
    signed: bool,
}

/// The first bin of values that are not finite.
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

    /// The magnitude at which a bin starts, which stands for all its values.
    fn magnitude(bin: usize) -> f64 {
        f64::from(f32::from_bits((bin as u32) << 16))
    }

    /// The range of the least squared error: step²/12 for each value inside, and (value - largest)² for each
    /// value beyond.
    fn range(&self) -> Range {
        let steps = if self.signed { 127.0 } else { 255.0 };
        // Bin 0 is left out: zeros have no error.
        let inside: u64 = self.counts[1..].iter().sum();
        let (mut best, mut least) = (0.0, f64::INFINITY);
        // The number of values beyond, their sum, and the sum of their squares.
        let mut beyond = [0.0; 3];
        for bin in (1..INFINITY).rev() {
            // A bin's values lie below the start of the next bin, which therefore includes them.
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
        // One number in a million is ten times the others: to hold it, all of them would lose more than it
        // does.
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
