//! The three forms of every block, proved equal on the device.

use super::check::Check;
use super::sizes::SEED;
use anyhow::Result;
use candle_core::{DType, Device};
use resnext_model::Config;
use resnext_model::equivalence::{Stack, identity};

/// The probability of a wrong verdict, at most.
const BOUND: f64 = 1e-15;

/// Proves each distinct block of a network in every type that the device computes exactly enough in.
pub fn checks(network: &str, device: &Device) -> Result<Vec<Check>> {
    // Metal has no f64.
    let dtypes: &[DType] = if device.is_metal() { &[DType::F32] } else { &[DType::F64, DType::F32] };
    let mut checks = Vec::new();
    for stack in Stack::distinct_blocks(&Config::by_name(network)?) {
        for &dtype in dtypes {
            let proved = identity(&stack, dtype, device, BOUND, SEED)?;
            let case = format!("{network}: {}, bits that differ", stack.name);
            checks.push(Check::at_most("three forms", &case, dtype, proved.tally.bits as f64, 0.0));
        }
    }
    Ok(checks)
}
