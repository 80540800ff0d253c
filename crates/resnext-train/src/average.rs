//! The exponential moving average of a network's weights.

use crate::error::{Error, Result};
use candle_core::{Tensor, Var};

/// Averages of variables, which start at the variables' own values.
#[derive(Debug)]
pub(crate) struct Average {
    decay: f64,
    /// Name, value, average.
    pairs: Vec<(String, Var, Var)>,
}

impl Average {
    /// Averages of the named `values`. A step keeps the fraction `decay` of an average.
    ///
    /// # Errors
    /// If `decay` is not from 0 to below 1.
    pub(crate) fn new(decay: f64, values: Vec<(String, Var)>) -> Result<Self> {
        check(decay)?;
        let pair = |(name, value): (String, Var)| {
            let average = copy(&value)?;
            Ok((name, value, average))
        };
        Ok(Average { decay, pairs: values.into_iter().map(pair).collect::<Result<_>>()? })
    }

    /// Moves all averages towards their values after `steps` steps.
    pub(crate) fn update(&self, steps: usize) -> Result<()> {
        let keep = warmed(self.decay, steps);
        self.pairs.iter().try_for_each(|(_, value, average)| blend(average, value, keep))
    }

    /// The averages as named variables.
    pub(crate) fn variables(&self) -> Vec<(String, Var)> {
        self.pairs.iter().map(|(name, _, average)| (name.clone(), average.clone())).collect()
    }
}

/// Checks the decay of an average.
pub(crate) fn check(decay: f64) -> Result<()> {
    match (0.0..1.0).contains(&decay) {
        true => Ok(()),
        false => Err(Error::Config(format!("the average's decay must be from 0 to below 1, got {decay}"))),
    }
}

/// A variable of the same value.
pub(crate) fn copy(value: &Var) -> candle_core::Result<Var> {
    Var::from_tensor(&value.as_detached_tensor().copy()?)
}

/// Moves `average` towards `value`: keep·average + (1 - keep)·value.
pub(crate) fn blend(average: &Var, value: &Var, keep: f64) -> Result<()> {
    let kept: Tensor = (average.as_detached_tensor() * keep)?;
    average.set(&(kept + (value.as_detached_tensor() * (1.0 - keep))?)?)?;
    Ok(())
}

/// The decay after `steps` steps: smaller in the first ones, so that the average soon forgets its initial
/// value.
pub(crate) fn warmed(decay: f64, steps: usize) -> f64 {
    decay.min((1 + steps) as f64 / (10 + steps) as f64)
}
