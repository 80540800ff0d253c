//! Means, deviations, slopes, and Student's intervals for a mean.

/// Quantiles 0.975 of Student's t distribution for 1 to 30 degrees of freedom.
const T975: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// A mean with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

impl Interval {
    /// Student's interval of the mean of `values`: mean ± t(0.975, n - 1)·s / √n. `None` for fewer than two
    /// values, which do not show how much they vary.
    pub fn of(values: &[f64]) -> Option<Self> {
        let (mean, deviation) = (mean(values)?, deviation(values)?);
        let half = t975(values.len() - 1) * deviation / (values.len() as f64).sqrt();
        Some(Interval { mean, low: mean - half, high: mean + half })
    }
}

/// The arithmetic mean; `None` if there are no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation with n - 1 in the denominator; `None` for fewer than two values.
pub fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// The slope of the least-squares line through points (x, y); `None` if all x are the same.
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let (xs, ys): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
    let (x, y) = (mean(&xs)?, mean(&ys)?);
    let spread: f64 = xs.iter().map(|own| (own - x).powi(2)).sum();
    let product: f64 = points.iter().map(|(px, py)| (px - x) * (py - y)).sum();
    (spread > 0.0).then(|| product / spread)
}

/// The quantile 0.975 of Student's t distribution.
fn t975(degrees: usize) -> f64 {
    match degrees {
        0 => f64::INFINITY,
        1..=30 => T975[degrees - 1],
        // Cornish and Fisher's first correction of the normal quantile; right within 0.003 from here on.
        more => 1.96 + (1.96f64.powi(3) + 1.96) / (4.0 * more as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-3, "{a} is not {b}");
    }

    /// Computed by hand: the mean of 1, 2 and 4 is 7/3, the squares of the differences sum up to 42/9, so that the
    /// deviation is √(21/9) = 1.5275, and half the interval is 4.303 · 1.5275 / √3 = 3.7949.
    #[test]
    fn an_interval_is_students() {
        let values = [1.0, 2.0, 4.0];
        close(deviation(&values).unwrap(), 1.5275);
        let Interval { mean, low, high } = Interval::of(&values).unwrap();
        close(mean, 2.3333);
        close(high, 2.3333 + 3.7949);
        close(low, 2.3333 - 3.7949);
        assert_eq!(Interval::of(&[1.0]), None);
        assert_eq!((mean_of_none(), deviation(&[])), (None, None));
    }

    fn mean_of_none() -> Option<f64> {
        mean(&[])
    }

    /// By hand: of (0, 5), (1, 4) and (3, 0), x̄ = 4/3 and ȳ = 3; Σ(x - x̄)(y - ȳ) = -8/3 - 1/3 - 5 = -8 and
    /// Σ(x - x̄)² = 16/9 + 1/9 + 25/9 = 14/3.
    #[test]
    fn a_slope_is_that_of_least_squares() {
        close(slope(&[(0.0, 5.0), (1.0, 4.0), (3.0, 0.0)]).unwrap(), -8.0 * 3.0 / 14.0);
        assert_eq!(slope(&[(2.0, 1.0), (2.0, 3.0)]), None);
        assert_eq!(slope(&[]), None);
    }

    /// Against a table: 2.021 for 40 degrees of freedom, 1.980 for 120.
    #[test]
    fn quantiles_beyond_the_table_are_close() {
        assert!((t975(40) - 2.021).abs() < 0.003 && (t975(120) - 1.980).abs() < 0.003);
        assert!(t975(31) < t975(30) && t975(0).is_infinite());
    }
}
