//! A tape that records this crate's operations for training.
//!
//! candle's own backward pass adds every gradient to a tensor of zeros first and keeps all intermediate
//! results until its end. The tape hands gradients on without such additions and frees each result after
//! its last use. Outside [`value_and_gradients`] the same operations build candle's graph.

#[cfg(feature = "cuda")]
use crate::devices::cuda::log::log_candle;
use crate::devices::has_kernel;
use crate::error::{Error, Result};
use crate::layout::{from_nhwc, to_nhwc};
use crate::profile;
use crate::train::elementwise::add_untracked;
use candle_core::{CustomOp1, CustomOp2, CustomOp3, Shape, Tensor, TensorId};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// The gradients of a scalar with respect to the variables that it was computed from.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<TensorId, Tensor>);

impl Gradients {
    /// The gradient for `variable`, in its shape, or `None` if the value does not depend on it.
    pub fn get(&self, variable: &Tensor) -> Option<&Tensor> {
        self.0.get(&variable.id())
    }
}

type Backward = Box<dyn Fn(&Tensor) -> Result<Vec<(Tensor, Option<Tensor>)>>>;

/// A recorded operation: its output, and how the output's gradient becomes the inputs' gradients.
struct Entry {
    output: TensorId,
    backward: Backward,
    /// The profile's scope in which it ran.
    path: String,
}

#[derive(Default)]
struct Tape {
    entries: Vec<Entry>,
    outputs: HashSet<TensorId>,
}

thread_local! {
    static TAPE: RefCell<Option<Tape>> = const { RefCell::new(None) };
}

/// Runs `f`, which computes a scalar by operations of this crate, and returns the scalar and its
/// gradients with respect to every [`Var`](candle_core::Var) that it depends on.
///
/// # Errors
/// The errors of `f`; [`Error::Untaped`] if one of candle's operations stands between a variable and the
/// result; a shape error if the result is not a scalar.
pub fn value_and_gradients<E: From<Error>>(
    f: impl FnOnce() -> std::result::Result<Tensor, E>,
) -> std::result::Result<(Tensor, Gradients), E> {
    value_and_gradients_with(f, |_, _| Ok(()))
}

/// Like [`value_and_gradients`], but the backward pass also calls `arrived` with a variable and its gradient whenever it
/// has computed one, so that a caller can send it elsewhere while the pass goes on. A variable that several
/// operations read arrives once for each, with the sum so far. There are no such calls where candle's own
/// backward pass computes, on devices without kernels of this crate.
///
/// # Errors
/// The errors of [`value_and_gradients`] and of `arrived`.
pub fn value_and_gradients_with<E: From<Error>>(
    f: impl FnOnce() -> std::result::Result<Tensor, E>,
    arrived: impl FnMut(&Tensor, &Tensor) -> std::result::Result<(), E>,
) -> std::result::Result<(Tensor, Gradients), E> {
    let (value, tape) = taped(f)?;
    if value.elem_count() != 1 {
        let (op, input, expected) = ("value_and_gradients", "the result", "a scalar".to_string());
        return Err(Error::Shape { op, input, expected, got: value.shape().clone() }.into());
    }
    #[cfg(feature = "cuda")]
    if value.device().is_cuda() {
        log_candle("const_set", value.layout(), value.dtype());
    }
    let one = value.ones_like().map_err(Error::from)?;
    Ok((value.detach(), tape.backward(&value, &one, arrived)?))
}

/// Runs `f`, which computes a tensor by operations of this crate, and returns the tensor and a
/// vector-Jacobian product: the gradients of `sum(value · cotangent)` with respect to every
/// [`Var`](candle_core::Var) that it depends on.
///
/// # Errors
/// The errors of [`value_and_gradients`], and if the cotangent does not have the value's shape.
pub fn vjp<E: From<Error>>(
    f: impl FnOnce() -> std::result::Result<Tensor, E>,
    cotangent: &Tensor,
) -> std::result::Result<(Tensor, Gradients), E> {
    let (value, tape) = taped(f)?;
    if value.dims() != cotangent.dims() {
        let (op, input, expected) =
            ("vjp", "cotangent", format!("{:?}, the shape of the value", value.dims()));
        return Err(Error::Shape { op, input, expected, got: cotangent.shape().clone() }.into());
    }
    Ok((value.detach(), tape.backward(&value, cotangent, |_, _| Ok::<(), E>(()))?))
}

/// Runs `f` and returns its value with the tape of its operations.
fn taped<E>(f: impl FnOnce() -> std::result::Result<Tensor, E>) -> std::result::Result<(Tensor, Tape), E> {
    let outer = TAPE.replace(Some(Tape::default()));
    let value = f();
    let tape = TAPE.replace(outer).unwrap_or_default();
    Ok((value?, tape))
}

/// Runs `f` without recording it, even within [`value_and_gradients`]: for the part of a network that is not
/// trained.
pub fn untaped<T>(f: impl FnOnce() -> T) -> T {
    let outer = TAPE.replace(None);
    let value = f();
    TAPE.replace(outer);
    value
}

impl Tape {
    fn backward<E: From<Error>>(
        self,
        value: &Tensor,
        cotangent: &Tensor,
        mut arrived: impl FnMut(&Tensor, &Tensor) -> std::result::Result<(), E>,
    ) -> std::result::Result<Gradients, E> {
        if self.entries.is_empty() && value.track_op() {
            // On a device without our kernels all operations were candle's, whose graph has the gradients.
            let store = (value * cotangent).and_then(|product| product.sum_all()?.backward());
            let store = store.map_err(Error::from)?;
            let all = store.get_ids().filter_map(|&id| Some((id, store.get_id(id)?.clone())));
            return Ok(Gradients(all.collect()));
        }
        let mut gradients = HashMap::from([(value.id(), cotangent.clone())]);
        for entry in self.entries.into_iter().rev() {
            let Some(gradient) = gradients.remove(&entry.output) else { continue };
            for (input, gradient) in profile::within(entry.path, || (entry.backward)(&gradient))? {
                let Some(gradient) = gradient else { continue };
                if !input.is_variable() && !self.outputs.contains(&input.id()) {
                    continue;
                }
                let sum = match gradients.remove(&input.id()) {
                    None => gradient,
                    Some(first) => add_untracked(&first, &gradient)?,
                };
                if input.is_variable() {
                    arrived(&input, &sum)?;
                }
                gradients.insert(input.id(), sum);
            }
        }
        Ok(Gradients(gradients))
    }
}

/// Whether operations are being recorded on this thread.
pub(crate) fn recording() -> bool {
    TAPE.with_borrow(Option::is_some)
}

/// Whether the gradient with respect to `x` is needed: `x` is a variable or depends on one.
pub(crate) fn needs_gradient(op: &'static str, x: &Tensor) -> Result<bool> {
    TAPE.with_borrow(|tape| match tape {
        None => Ok(x.track_op()),
        Some(tape) if tape.outputs.contains(&x.id()) => Ok(true),
        Some(_) if x.is_variable() => Ok(true),
        Some(_) if x.track_op() => Err(Error::Untaped { op }),
        Some(_) => Ok(false),
    })
}

/// Puts an operation on the tape, if there is one: its output, and the function from the output's gradient to
/// the inputs and their gradients.
pub(crate) fn record(
    output: &Tensor,
    backward: impl Fn(&Tensor) -> Result<Vec<(Tensor, Option<Tensor>)>> + 'static,
) {
    TAPE.with_borrow_mut(|tape| {
        if let Some(tape) = tape {
            tape.outputs.insert(output.id());
            let (backward, path) = (Box::new(backward), profile::path());
            tape.entries.push(Entry { output: output.id(), backward, path });
        }
    });
}

/// How an operation's result becomes the tensor that the caller gets.
#[derive(Clone, Copy)]
pub(crate) enum Output {
    /// The operation returns (N, H, W, C), the caller gets a view of it as (N, C, H, W).
    ChannelsLast,
    /// The caller gets the result itself.
    Plain,
}

impl Output {
    fn view(self, y: Tensor) -> candle_core::Result<Tensor> {
        match self {
            Output::ChannelsLast => from_nhwc(&y),
            Output::Plain => Ok(y),
        }
    }

    fn unview(self, gradient: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Output::ChannelsLast => to_nhwc(gradient),
            Output::Plain => Ok(gradient.clone()),
        }
    }
}

/// Applies an operation of one input, on the tape if there is one, else in candle's graph.
pub(crate) fn apply1<C: CustomOp1 + Send + Sync + 'static>(
    x: &Tensor,
    op: C,
    output: Output,
) -> Result<Tensor> {
    if !recording() {
        return Ok(output.view(x.apply_op1(op)?)?);
    }
    let raw = x.apply_op1_no_bwd(&op)?;
    let y = output.view(raw.clone())?;
    if needs_gradient(op.name(), x)? {
        let x = x.clone();
        record(&y, move |g| Ok(vec![(x.clone(), op.bwd(&x, &raw, &output.unview(g)?)?)]));
    }
    Ok(y)
}

/// Applies an operation of two inputs, on the tape if there is one, else in candle's graph.
pub(crate) fn apply2<C: CustomOp2 + Send + Sync + 'static>(
    a: &Tensor,
    b: &Tensor,
    op: C,
    output: Output,
) -> Result<Tensor> {
    if !recording() {
        return Ok(output.view(a.apply_op2(b, op)?)?);
    }
    let raw = a.apply_op2_no_bwd(b, &op)?;
    let y = output.view(raw.clone())?;
    if needs_gradient(op.name(), a)? | needs_gradient(op.name(), b)? {
        let (a, b) = (a.clone(), b.clone());
        record(&y, move |g| {
            let (ga, gb) = op.bwd(&a, &b, &raw, &output.unview(g)?)?;
            Ok(vec![(a.clone(), ga), (b.clone(), gb)])
        });
    }
    Ok(y)
}

/// Applies an operation of three inputs, on the tape if there is one, else in candle's graph.
pub(crate) fn apply3<C: CustomOp3 + Send + Sync + 'static>(
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    op: C,
    output: Output,
) -> Result<Tensor> {
    if !recording() {
        return Ok(output.view(a.apply_op3(b, c, op)?)?);
    }
    let raw = a.apply_op3_no_bwd(b, c, &op)?;
    let y = output.view(raw.clone())?;
    if needs_gradient(op.name(), a)? | needs_gradient(op.name(), b)? | needs_gradient(op.name(), c)? {
        let (a, b, c) = (a.clone(), b.clone(), c.clone());
        record(&y, move |g| {
            let (ga, gb, gc) = op.bwd(&a, &b, &c, &raw, &output.unview(g)?)?;
            Ok(vec![(a.clone(), ga), (b.clone(), gb), (c.clone(), gc)])
        });
    }
    Ok(y)
}

/// `x.reshape(shape)`, recorded on the tape where this project's kernels compute.
///
/// # Errors
/// If the shape has another number of elements.
pub fn reshape(x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
    let y = x.reshape(shape.into())?;
    if recording() && has_kernel(x) && needs_gradient("reshape", x)? {
        let x = x.clone();
        record(&y, move |g| Ok(vec![(x.clone(), Some(g.reshape(x.shape())?))]));
    }
    Ok(y)
}
