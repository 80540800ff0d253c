//! Operations from outside this crate on the tape.

use crate::devices::has_kernel;
use crate::error::{Error, Result};
use crate::train::tape::{needs_gradient, record, recording};
use candle_core::Tensor;

/// The operation's name in error messages.
const OP: &str = "custom";

/// `forward(x)`, of any shape, as one operation on the tape: `backward` computes the gradient of `x`, in its shape, from
/// that of the result.
///
/// Neither closure's own operations are recorded, so both may use anything of candle's.
///
/// # Errors
/// The errors of the closures; also if this project has no kernels for the device and type of `x`, or if `x` is in
/// candle's own graph, as outside [`value_and_gradients`](crate::value_and_gradients) and [`vjp`](crate::vjp)
/// there is no tape that would keep the gradient.
pub fn custom(
    x: &Tensor,
    forward: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
    backward: impl Fn(&Tensor) -> candle_core::Result<Tensor> + 'static,
) -> Result<Tensor> {
    if !has_kernel(x) || (!recording() && x.track_op()) {
        let (dtype, device) = (x.dtype(), x.device().location());
        let message = format!("needs the tape, which {dtype:?} on {device:?} does not have here");
        return Err(Error::Config { op: OP, message });
    }
    let y = forward(&x.detach())?;
    // The tape knows tensors by their identity.
    let y = if y.id() == x.id() { y.copy()? } else { y.detach() };
    if recording() && needs_gradient(OP, x)? {
        let x = x.clone();
        record(&y, move |g| Ok(vec![(x.clone(), Some(backward(g)?))]));
    }
    Ok(y)
}
