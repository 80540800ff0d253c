//! The gradients of a step of several batches, added up by a single process.

use crate::error::Result;
use candle_core::{Tensor, TensorId, Var};
use resnext_ops::Gradients;
use std::collections::HashMap;

/// Adds a batch's gradients of these named variables, divided by the number of batches of the step, to `sums`.
pub(crate) fn accumulate(
    sums: &mut HashMap<TensorId, Tensor>,
    gradients: &Gradients,
    variables: &[(String, Var)],
    group: usize,
) -> Result<()> {
    for (_, var) in variables {
        let Some(gradient) = gradients.get(var) else { continue };
        let gradient = if group == 1 { gradient.clone() } else { (gradient / group as f64)? };
        let sum = match sums.remove(&var.id()) {
            None => gradient,
            Some(sum) => (sum + gradient)?,
        };
        sums.insert(var.id(), sum);
    }
    Ok(())
}

/// Whether a parameter is a batch norm's scale or shift.
pub(crate) fn is_norm(name: &str, value: &Var) -> bool {
    value.rank() == 1 && !name.starts_with("fc.")
}
