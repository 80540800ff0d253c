//! How well a network knows how sure it may be.

/// The number of bins of equal width that confidences are sorted into.
const BINS: usize = 15;

/// The expected calibration error (Guo et al., "On calibration of modern neural networks", arXiv 1706.04599, section
/// 2) with 15 bins: the mean difference between confidence and accuracy. Each of `predictions` has the probability of
/// the predicted class, from 0 to 1, and whether it is right.
pub fn calibration_error(predictions: impl Iterator<Item = (f64, bool)>) -> f64 {
    let (mut bins, mut count) = ([(0.0, 0usize); BINS], 0);
    for (confidence, right) in predictions {
        // A bin reaches from above its lower end to its upper end, as in the paper.
        let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        bins[bin].0 += confidence;
        bins[bin].1 += usize::from(right);
        count += 1;
    }
    // Both sums are over the same images, so that their number cancels out.
    bins.iter().map(|&(confidence, right)| (confidence - right as f64).abs()).sum::<f64>()
        / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_the_mean_gap_between_confidence_and_accuracy() {
        let of = |predictions: &[(f64, bool)]| calibration_error(predictions.iter().copied());
        assert_eq!(of(&[]), 0.0);
        assert_eq!(of(&[(1.0, true), (1.0, true)]), 0.0);
        assert!((of(&[(0.9, false), (0.9, true)]) - 0.4).abs() < 1e-12);
        // Too sure in one bin, not sure enough in another: the gaps do not cancel out.
        assert!((of(&[(0.95, false), (0.35, true)]) - (0.95 + 0.65) / 2.0).abs() < 1e-12);
        // 0.2 is the upper end of the third bin, not the lower one of the fourth.
        assert!((of(&[(0.2, true), (0.15, false)]) - 0.65 / 2.0).abs() < 1e-12);
    }
}
