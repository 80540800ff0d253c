//! Statistics of measured times, and how two of them compare.

/// The `q`-quantile of `values` (0 to 1), by nearest rank; NaN if there are none.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(((sorted.len().max(1) - 1) as f64 * q).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The largest difference between two engines' outputs, relative to the largest of `ours`.
pub fn largest_difference(theirs: &[f64], ours: &[f64]) -> f64 {
    let largest = ours.iter().fold(0f64, |most, v| most.max(v.abs()));
    theirs.iter().zip(ours).map(|(t, o)| (t - o).abs() / largest).fold(0.0, f64::max)
}

/// Our speed beside another engine's, in words: `2.10× faster`, `1.06× slower` or `the same`.
///
/// The slower engine's time is always divided by the faster one's, so that the number is at least 1.
pub fn our_speed(ours_ms: f64, theirs_ms: f64) -> String {
    let ratio = theirs_ms / ours_ms;
    if ratio.is_nan() {
        "unknown".into()
    } else if (0.995..1.005).contains(&ratio) {
        "the same".into()
    } else if ratio < 1.0 {
        format!("{:.2}× slower", 1.0 / ratio)
    } else {
        format!("{ratio:.2}× faster")
    }
}

/// Times of a network's layers, in the order they run, over several runs.
#[derive(Default)]
pub struct LayerTimes {
    layers: Vec<(String, Vec<f64>)>,
    /// The layer whose time comes next in the current run.
    next: usize,
}

impl LayerTimes {
    /// Begins another run through the same layers.
    pub fn start_run(&mut self) {
        self.next = 0;
    }

    /// Adds the next layer's time, in milliseconds.
    pub fn add(&mut self, name: &str, ms: f64) {
        match self.layers.get_mut(self.next) {
            Some((_, times)) => times.push(ms),
            None => self.layers.push((name.to_string(), vec![ms])),
        }
        self.next += 1;
    }

    /// Each layer's name and its times in milliseconds, one per run.
    pub fn into_times(self) -> Vec<(String, Vec<f64>)> {
        self.layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_below_one_is_called_slower() {
        assert_eq!(our_speed(100.0, 94.0), "1.06× slower");
        assert_eq!(our_speed(100.0, 210.0), "2.10× faster");
        assert_eq!(our_speed(100.0, 100.4), "the same");
        assert_eq!(our_speed(100.0, 99.6), "the same");
        assert_eq!(our_speed(1.0, f64::NAN), "unknown");
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!([0.0, 0.1, 0.5, 0.9, 1.0].map(|q| quantile(&values, q)), [1.0, 1.0, 3.0, 5.0, 5.0]);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn times_of_a_layer_are_collected_over_runs() {
        let mut times = LayerTimes::default();
        for run in 0..3 {
            times.start_run();
            // Two layers may have the same name: their order tells them apart.
            ["conv", "conv", "fc"].iter().zip([1.0, 2.0, 3.0]).for_each(|(name, ms)| {
                times.add(name, ms + run as f64);
            });
        }
        let expected = [("conv", [1.0, 2.0, 3.0]), ("conv", [2.0, 3.0, 4.0]), ("fc", [3.0, 4.0, 5.0])];
        assert_eq!(times.into_times(), expected.map(|(name, ms)| (name.to_string(), ms.to_vec())));
    }
}
