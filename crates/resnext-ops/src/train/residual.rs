//! Element-wise operations of the residual block: ReLU, the sum with the shortcut, sums and concatenations of
//! paths.

use crate::devices::has_kernel;
use crate::error::{Error, Result};
use crate::layout::{from_nhwc, to_nhwc};
use crate::shape::{check_rank, check_same};
use crate::train::elementwise::{Add, Relu};
use crate::train::tape::{Output, apply1, apply2, needs_gradient, record, recording, reshape};
use candle_core::Tensor;

/// `max(x, 0)` of a tensor (N, C, H, W) or (N, C). Its gradient at 0 is 0, as in PyTorch.
///
/// # Errors
/// If `x` does not have four or two dimensions.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if let &[n, c] = x.dims() {
        return reshape(&relu(&reshape(x, (n, c, 1, 1))?)?, (n, c));
    }
    check_rank("relu", x)?;
    if !has_kernel(x) {
        return Ok(x.relu()?);
    }
    apply1(x, Relu, Output::ChannelsLast)
}

/// `max(a + b, 0)` of two tensors (N, C, H, W) of one shape and type: the end of a residual block.
///
/// # Errors
/// If the tensors do not have four dimensions, or their shapes or types differ.
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check_same("add_relu", a, b)?;
    if !has_kernel(a) {
        return Ok((a + b)?.relu()?);
    }
    apply2(a, b, Add { relu: true }, Output::ChannelsLast)
}

/// `a + b` of two tensors (N, C, H, W) of one shape and type.
///
/// # Errors
/// If the tensors do not have four dimensions, or their shapes or types differ.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check_same("add", a, b)?;
    if !has_kernel(a) {
        return Ok((a + b)?);
    }
    apply2(a, b, Add { relu: false }, Output::ChannelsLast)
}

/// The sum of tensors (N, C, H, W) of one shape, added in order: the paths of the paper's figure 3 (a).
///
/// # Errors
/// If there is no tensor, or shapes differ.
pub fn sum(tensors: &[Tensor]) -> Result<Tensor> {
    let (first, rest) = tensors.split_first().ok_or_else(|| empty("sum"))?;
    rest.iter().try_fold(first.clone(), |sum, x| add(&sum, x))
}

/// Concatenates tensors (N, Ci, H, W) to one (N, ΣCi, H, W), as the paper's figure 3 (b) does.
///
/// # Errors
/// If there is no tensor, or sizes other than C differ.
pub fn cat_channels(tensors: &[Tensor]) -> Result<Tensor> {
    if tensors.is_empty() {
        return Err(empty("cat_channels"));
    }
    let mut needed = false;
    for x in tensors {
        check_rank("cat_channels", x)?;
        needed |= has_kernel(x) && needs_gradient("cat_channels", x)?;
    }
    let parts = tensors.iter().map(to_nhwc).collect::<candle_core::Result<Vec<_>>>()?;
    let y = from_nhwc(&Tensor::cat(&parts, 3)?)?;
    if recording() && needed {
        let tensors = tensors.to_vec();
        record(&y, move |g| {
            let mut start = 0;
            tensors
                .iter()
                .map(|x| {
                    let len = x.dim(1)?;
                    let part = g.narrow(1, start, len)?;
                    start += len;
                    Ok((x.clone(), Some(part)))
                })
                .collect()
        });
    }
    Ok(y)
}

/// Multiplies each image of `x` (N, C, H, W) by its factor, of `factors` (N), which get no gradient.
///
/// # Errors
/// If `x` does not have four dimensions, or `factors` are not (N) of x's type.
pub fn scale_images(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    check_rank("scale_images", x)?;
    let images = x.dim(0)?;
    if factors.dims() != [images] {
        let (op, expected) = ("scale_images", format!("[{images}], one factor per image"));
        return Err(Error::Shape { op, input: "factors", expected, got: factors.shape().clone() });
    }
    let factors = factors.detach().reshape((images, 1, 1, 1))?;
    let y = from_nhwc(&to_nhwc(x)?.broadcast_mul(&factors)?)?;
    if recording() && has_kernel(x) && needs_gradient("scale_images", x)? {
        let x = x.clone();
        record(&y, move |g| Ok(vec![(x.clone(), Some(from_nhwc(&to_nhwc(g)?.broadcast_mul(&factors)?)?))]));
    }
    Ok(y)
}

fn empty(op: &'static str) -> Error {
    Error::Config { op, message: "expected at least one tensor, got none".into() }
}
