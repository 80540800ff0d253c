//! Conversion of a tensor to another type, with its gradient: the boundaries of mixed precision.

#[cfg(feature = "cuda")]
use crate::devices::cuda::log::log_candle;
use crate::devices::has_kernel;
use crate::error::Result;
use crate::layout::{from_nhwc, to_nhwc};
use crate::train::tape::{needs_gradient, record, recording};
use candle_core::{DType, Tensor};

/// Converts `x`, of any shape, to `dtype`. A tensor of four dimensions becomes channels-last. The gradient
/// has x's own type.
///
/// # Errors
/// If x's device cannot convert to `dtype`.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    let y = convert(x, dtype)?;
    if recording() && has_kernel(x) && needs_gradient("cast", x)? {
        let x = x.clone();
        record(&y, move |g| Ok(vec![(x.clone(), Some(convert(g, x.dtype())?))]));
    }
    Ok(y)
}

/// Converts in channels-last order: candle writes the result in the order of the dimensions it is given.
fn convert(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let ordered = if x.rank() == 4 { to_nhwc(x)? } else { x.clone() };
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        log_candle(&format!("cast_{}", x.dtype().as_str()), ordered.layout(), dtype);
    }
    let y = ordered.to_dtype(dtype)?;
    Ok(if x.rank() == 4 { from_nhwc(&y)? } else { y })
}
