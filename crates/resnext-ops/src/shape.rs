//! Checks of shapes and types that several operations share, and the sizes of a convolution.

use crate::error::{Error, Result};
use candle_core::{Shape, Tensor};
use resnext_kernels::{Conv2dConfig, ConvShape};

/// Checks that `x` has four dimensions.
pub(crate) fn check_rank(op: &'static str, x: &Tensor) -> Result<()> {
    match x.rank() {
        4 => Ok(()),
        _ => Err(Error::Shape { op, input: "x", expected: "(N, C, H, W)".into(), got: x.shape().clone() }),
    }
}

/// Checks that both tensors have four dimensions, one shape and one type.
pub(crate) fn check_same(op: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    check_rank(op, a)?;
    if a.dims() != b.dims() {
        let expected = format!("{:?}, the shape of the first", a.dims());
        return Err(Error::Shape { op, input: "the second input", expected, got: b.shape().clone() });
    }
    if a.dtype() != b.dtype() {
        let expected = format!("{:?}, the type of the first", a.dtype());
        return Err(Error::DType { op, input: "the second input", expected, got: b.dtype() });
    }
    Ok(())
}

/// The sizes of the convolution of `x` (N, Cin, H, W) with `weight` (Cout, Cin/groups, kh, kw).
///
/// # Errors
/// If they do not fit each other or the settings.
pub(crate) fn conv_shape(
    op: &'static str,
    x: &Shape,
    weight: &Shape,
    config: &Conv2dConfig,
) -> Result<ConvShape> {
    let x = x.dims4().map_err(|_| Error::Shape {
        op,
        input: "x",
        expected: "(N, C, H, W)".into(),
        got: x.clone(),
    })?;
    conv_sizes(op, x.into(), check_weight(op, weight, config)?, config)
}

/// [`conv_shape`] from sizes of which those of the weight have passed [`check_weight`].
pub(crate) fn conv_sizes(
    op: &'static str,
    [batch, in_channels, in_h, in_w]: [usize; 4],
    weight: [usize; 4],
    config: &Conv2dConfig,
) -> Result<ConvShape> {
    let ([out_channels, group_in, kernel_h, kernel_w], groups) = (weight, config.groups);
    if !in_channels.is_multiple_of(groups) {
        let message = format!(
            "{in_channels} input and {out_channels} output channels are not divisible by {groups} groups"
        );
        return Err(Error::Config { op, message });
    }
    if in_channels / groups != group_in {
        let expected = format!(
            "[{out_channels}, {}, kh, kw] for {in_channels} channels in {groups} groups",
            in_channels / groups
        );
        return Err(Error::Shape { op, input: "weight", expected, got: weight.as_slice().into() });
    }
    let out_h = output_side(op, ("height", in_h), kernel_h, config)?;
    let out_w = output_side(op, ("width", in_w), kernel_w, config)?;
    Ok(ConvShape {
        batch,
        in_channels,
        in_h,
        in_w,
        out_channels,
        out_h,
        out_w,
        kernel_h,
        kernel_w,
        config: *config,
    })
}

/// The four sizes of a convolution's weight, which must fit the settings.
pub(crate) fn check_weight(op: &'static str, weight: &Shape, config: &Conv2dConfig) -> Result<[usize; 4]> {
    let wrong =
        |expected: &str| Error::Shape { op, input: "weight", expected: expected.into(), got: weight.clone() };
    let sizes = <[usize; 4]>::from(weight.dims4().map_err(|_| wrong("(Cout, Cin/groups, kh, kw)"))?);
    if sizes.contains(&0) {
        return Err(wrong("no empty dimension"));
    }
    let Conv2dConfig { stride, dilation, groups, .. } = *config;
    if stride == 0 || dilation == 0 || groups == 0 {
        let message = format!("stride, dilation and groups must be at least 1, got {config:?}");
        return Err(Error::Config { op, message });
    }
    if !sizes[0].is_multiple_of(groups) {
        let message = format!("{} output channels are not divisible by {groups} groups", sizes[0]);
        return Err(Error::Config { op, message });
    }
    Ok(sizes)
}

/// The output pixels along one side of a map of `input` pixels.
fn output_side(
    op: &'static str,
    (axis, input): (&str, usize),
    kernel: usize,
    config: &Conv2dConfig,
) -> Result<usize> {
    let Conv2dConfig { stride, padding, dilation, .. } = *config;
    let extent = (kernel - 1).checked_mul(dilation).and_then(|e| e.checked_add(1));
    let padded = padding.checked_mul(2).and_then(|p| p.checked_add(input));
    match (extent, padded) {
        // A bound far above any image keeps every later sum inside 64 bits.
        (Some(extent), Some(padded)) if extent <= padded && padded < 1 << 30 => {
            Ok((padded - extent) / stride + 1)
        }
        _ => Err(Error::Config {
            op,
            message: format!(
                "a kernel of {kernel} with dilation {dilation} does not fit the {axis} {input} with padding {padding}"
            ),
        }),
    }
}

/// (N, Cout, H', W') of a convolution's result.
pub(crate) fn output_shape(shape: &ConvShape) -> Shape {
    (shape.batch, shape.out_channels, shape.out_h, shape.out_w).into()
}
