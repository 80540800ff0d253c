//! How long the device takes.

use crate::bench::stats::quantile;
use anyhow::Result;
use candle_core::Device;
use std::time::Instant;

/// The milliseconds of one run of `f`: the median of `rounds` measurements of `runs` runs each.
///
/// A measurement ends when the device has finished, not when the host has.
pub fn median_ms<R>(
    device: &Device,
    (runs, rounds): (usize, usize),
    mut f: impl FnMut() -> Result<R>,
) -> Result<f64> {
    f()?;
    device.synchronize()?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..runs {
            f()?;
        }
        device.synchronize()?;
        times.push(start.elapsed().as_secs_f64() * 1e3 / runs as f64);
    }
    Ok(quantile(&times, 0.5))
}
