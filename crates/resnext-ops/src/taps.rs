//! Windows along one axis: average pools and blurs are products of one along the rows and one along the columns.

/// Which source positions each output position of an axis sums, and with which weights.
#[derive(Debug, Clone, PartialEq)]
pub struct AxisTaps {
    /// `[output position][tap]`: the source position and its weight.
    taps: Vec<Vec<(usize, f64)>>,
    /// The number of source positions.
    sources: usize,
}

impl AxisTaps {
    /// The taps of each output position over an axis of `sources` positions.
    ///
    /// # Panics
    /// If a tap is not below `sources`.
    pub fn new(sources: usize, taps: Vec<Vec<(usize, f64)>>) -> Self {
        assert!(
            taps.iter().flatten().all(|&(source, _)| source < sources),
            "a tap beyond {sources} positions"
        );
        AxisTaps { taps, sources }
    }

    /// The number of source positions.
    pub fn sources(&self) -> usize {
        self.sources
    }

    /// The number of output positions.
    pub fn outputs(&self) -> usize {
        self.taps.len()
    }

    /// The source positions of output position `i`, and their weights.
    pub fn of(&self, i: usize) -> &[(usize, f64)] {
        &self.taps[i]
    }

    /// The adjoint, which takes the gradient of the outputs to that of the sources.
    pub fn transposed(&self) -> Self {
        let mut taps = vec![Vec::new(); self.sources];
        for (output, window) in self.taps.iter().enumerate() {
            for &(source, weight) in window {
                taps[source].push((output, weight));
            }
        }
        AxisTaps { taps, sources: self.taps.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::AxisTaps;

    #[test]
    fn the_adjoint_has_the_same_weights_the_other_way_round() {
        let taps = AxisTaps::new(3, vec![vec![(0, 0.25), (2, 0.75)], vec![(2, 1.0)]]);
        let adjoint = taps.transposed();
        assert_eq!((adjoint.sources(), adjoint.outputs()), (2, 3));
        assert_eq!(
            [adjoint.of(0), adjoint.of(1), adjoint.of(2)],
            [&[(0, 0.25)][..], &[], &[(0, 0.75), (1, 1.0)]]
        );
        assert_eq!(adjoint.transposed(), taps);
    }
}
