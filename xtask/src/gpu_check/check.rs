//! One check: a number that must not be above a bound.

use candle_core::DType;
use serde::Serialize;

#[derive(Serialize)]
pub struct Check {
    /// The operation or property that is checked.
    pub what: String,
    /// Its shapes and variant.
    pub case: String,
    pub dtype: String,
    pub worst: f64,
    pub bound: f64,
    pub passed: bool,
}

impl Check {
    /// Passes if `worst` is at most `bound`; NaN fails.
    pub fn at_most(what: &str, case: &str, dtype: DType, worst: f64, bound: f64) -> Self {
        let dtype = dtype.as_str().to_string();
        Check { what: what.into(), case: case.into(), dtype, worst, bound, passed: worst <= bound }
    }
}
