//! Learning-rate schedules. The rate depends only on the position in the run, so a resumed run needs no other
//! state.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the learning rate changes over a run. Positions are fractions of the run's optimizer steps, from 0 to
/// 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// The peak rate, multiplied by `factor` at each of `milestones`. The paper's CIFAR schedule (section
    /// 5.3) multiplies by 0.1 at 1/2 and 3/4 of the run.
    Step {
        /// Fraction of the run with a linear rise from 0 to the peak.
        #[serde(default)]
        warmup: f64,
        /// Positions at which the rate drops.
        #[serde(default = "default_milestones")]
        milestones: Vec<f64>,
        /// The factor of each drop.
        #[serde(default = "default_factor")]
        factor: f64,
    },
    /// A half cosine from the peak to 0.
    Cosine {
        /// Fraction of the run with a linear rise from 0 to the peak.
        #[serde(default)]
        warmup: f64,
    },
    /// Smith's one-cycle policy, as PyTorch's `OneCycleLR`: a half cosine up from 1/25 of the peak, then one
    /// down to 1/250,000 of it.
    OneCycle {
        /// Fraction of the run in which the rate rises.
        #[serde(default = "default_rise")]
        warmup: f64,
    },
}

fn default_milestones() -> Vec<f64> {
    vec![0.5, 0.75]
}

fn default_factor() -> f64 {
    0.1
}

fn default_rise() -> f64 {
    0.3
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule::OneCycle { warmup: default_rise() }
    }
}

impl Schedule {
    /// Checks that the settings are in range.
    ///
    /// # Errors
    /// If a fraction is not from 0 to 1, or the factor is not positive and finite.
    pub fn validate(&self) -> Result<()> {
        let (warmup, milestones, factor) = match self {
            Schedule::Step { warmup, milestones, factor } => (*warmup, milestones.as_slice(), *factor),
            Schedule::Cosine { warmup } | Schedule::OneCycle { warmup } => (*warmup, [].as_slice(), 1.0),
        };
        let fraction = |v: f64| (0.0..=1.0).contains(&v);
        if !fraction(warmup) || !milestones.iter().all(|&m| fraction(m)) {
            return Err(Error::Config(
                "schedule: warmup and milestones are fractions of the run, from 0 to 1".into(),
            ));
        }
        match factor > 0.0 && factor.is_finite() {
            true => Ok(()),
            false => Err(Error::Config(format!("schedule: factor must be above 0, got {factor}"))),
        }
    }

    /// The learning rate of optimizer step `step`, from 0, in a run of `total` steps with the peak rate
    /// `peak`.
    pub fn learning_rate(&self, peak: f64, step: usize, total: usize) -> f64 {
        let at = step as f64 / total.max(1) as f64;
        // A half cosine from `a` to `b`, for t from 0 to 1.
        let cosine = |a: f64, b: f64, t: f64| b + (a - b) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos());
        let rest = |warmup: f64| ((at - warmup) / (1.0 - warmup)).clamp(0.0, 1.0);
        match self {
            // The first step of the warm-up has a positive rate, the last one the peak.
            Schedule::Step { warmup, .. } | Schedule::Cosine { warmup } if at < *warmup => {
                peak * ((at + 1.0 / total as f64) / warmup).min(1.0)
            }
            Schedule::Step { milestones, factor, .. } => {
                peak * factor.powi(milestones.iter().filter(|&&m| at >= m).count() as i32)
            }
            Schedule::Cosine { warmup } => cosine(peak, 0.0, rest(*warmup)),
            Schedule::OneCycle { warmup } if at < *warmup => cosine(peak / 25.0, peak, at / warmup),
            Schedule::OneCycle { warmup } => cosine(peak, peak / 25e4, rest(*warmup)),
        }
    }
}
