//! Learning-rate schedules. The rate depends only on the position in the run, so a resumed run needs no other
//! state.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the learning rate changes over a run. Positions are fractions of the run's optimizer steps, from 0 to
/// 1.
///
/// Every schedule but the one-cycle policy can begin with a warm-up: over the fraction `warmup` of the run the
/// rate rises in a straight line from the fraction `start` of the peak to the peak.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// The peak rate, multiplied by `factor` at each of `milestones`, or after every `size` of the run. The
    /// paper's CIFAR schedule (section 5.3) multiplies by 0.1 at 1/2 and 3/4 of the run. PyTorch's
    /// `MultiStepLR` and `StepLR`.
    #[serde(alias = "multi-step")]
    Step {
        /// The fraction of the run that warms up.
        #[serde(default)]
        warmup: f64,
        /// The fraction of the peak at which the warm-up begins.
        #[serde(default, skip_serializing_if = "is_zero")]
        start: f64,
        /// Positions at which the rate drops; ignored if there is a `size`.
        #[serde(default = "default_milestones")]
        milestones: Vec<f64>,
        /// The fraction of the run from one drop to the next.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<f64>,
        /// The factor of each drop.
        #[serde(default = "default_factor")]
        factor: f64,
    },
    /// A half cosine from the peak to the fraction `end` of it. PyTorch's `CosineAnnealingLR`.
    Cosine {
        /// The fraction of the run that warms up.
        #[serde(default)]
        warmup: f64,
        /// The fraction of the peak at which the warm-up begins.
        #[serde(default, skip_serializing_if = "is_zero")]
        start: f64,
        /// The fraction of the peak that is left at the end.
        #[serde(default, skip_serializing_if = "is_zero")]
        end: f64,
    },
    /// From the peak to the fraction `end` of it, as a power of what is left of the run. PyTorch's
    /// `PolynomialLR`.
    Polynomial {
        /// The fraction of the run that warms up.
        #[serde(default)]
        warmup: f64,
        /// The fraction of the peak at which the warm-up begins.
        #[serde(default, skip_serializing_if = "is_zero")]
        start: f64,
        /// The fraction of the peak that is left at the end.
        #[serde(default, skip_serializing_if = "is_zero")]
        end: f64,
        /// The exponent; 1 is a straight line.
        #[serde(default = "default_power")]
        power: f64,
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

fn default_power() -> f64 {
    1.0
}

fn default_rise() -> f64 {
    0.3
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
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
    /// If a fraction is not from 0 to 1, or a factor, size or power is not positive and finite.
    pub fn validate(&self) -> Result<()> {
        let fraction = |name: &str, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => Err(Error::Config(format!(
                "schedule: {name} is a fraction of the run, from 0 to 1, not {value}"
            ))),
        };
        let positive = |name: &str, value: f64| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(Error::Config(format!("schedule: {name} must be above 0, got {value}"))),
        };
        let of_peak = |name: &str, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => Err(Error::Config(format!(
                "schedule: {name} is a fraction of the peak rate, from 0 to 1, not {value}"
            ))),
        };
        match self {
            Schedule::Step { warmup, start, milestones, size, factor } => {
                fraction("warmup", *warmup)?;
                of_peak("start", *start)?;
                milestones.iter().try_for_each(|&milestone| fraction("a milestone", milestone))?;
                size.map_or(Ok(()), |size| positive("size", size).and(fraction("size", size)))?;
                positive("factor", *factor)
            }
            Schedule::Cosine { warmup, start, end } => {
                fraction("warmup", *warmup)?;
                of_peak("start", *start)?;
                of_peak("end", *end)
            }
            Schedule::Polynomial { warmup, start, end, power } => {
                fraction("warmup", *warmup)?;
                of_peak("start", *start)?;
                of_peak("end", *end)?;
                positive("power", *power)
            }
            Schedule::OneCycle { warmup } => fraction("warmup", *warmup),
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
            Schedule::Step { warmup, start, .. }
            | Schedule::Cosine { warmup, start, .. }
            | Schedule::Polynomial { warmup, start, .. }
                if at < *warmup =>
            {
                peak * (start + (1.0 - start) * ((at + 1.0 / total as f64) / warmup).min(1.0))
            }
            Schedule::Step { size: Some(size), factor, .. } => {
                // A step that lies at a multiple of the size, up to rounding, has dropped.
                peak * factor.powi((at / size + 1e-9).floor() as i32)
            }
            Schedule::Step { milestones, factor, .. } => {
                peak * factor.powi(milestones.iter().filter(|&&m| at >= m).count() as i32)
            }
            Schedule::Cosine { warmup, end, .. } => cosine(peak, peak * end, rest(*warmup)),
            Schedule::Polynomial { warmup, end, power, .. } => {
                peak * (end + (1.0 - end) * (1.0 - rest(*warmup)).powf(*power))
            }
            Schedule::OneCycle { warmup } if at < *warmup => cosine(peak / 25.0, peak, at / warmup),
            Schedule::OneCycle { warmup } => cosine(peak, peak / 25e4, rest(*warmup)),
        }
    }
}
