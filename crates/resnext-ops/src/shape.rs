//! Checks of shapes and types that several operations share.

use crate::error::{Error, Result};
use candle_core::{Shape, Tensor};
use resnext_kernels::{Conv2dConfig, ConvShape};

pub(crate) fn check_rank(op: &'static str, x: &Tensor) -> Result<()> {
    match x.rank() {
        4 => Ok(()),
        _ => Err(Error::Shape { op, input: "x", expected: "(N, C, H, W)".into(), got: x.shape().clone() }),
    }
}

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

/// The sizes of a convolution, after checking that they fit.
pub(crate) fn checked_shape(x: &Shape, weight: &Shape, config: &Conv2dConfig) -> Result<ConvShape> {
    const OP: &str = "conv2d";
    let rank = |input, expected: &str, got: &Shape| Error::Shape {
        op: OP,
        input,
        expected: expected.into(),
        got: got.clone(),
    };
    let (batch, in_channels, in_h, in_w) = x.dims4().map_err(|_| rank("x", "(N, C, H, W)", x))?;
    let (out_channels, group_in, kernel_h, kernel_w) =
        weight.dims4().map_err(|_| rank("weight", "(Cout, Cin/groups, kh, kw)", weight))?;
    let Conv2dConfig { stride, padding, dilation, groups } = *config;
    let wrong = |message| Err(Error::Config { op: OP, message });
    if stride == 0 || dilation == 0 || groups == 0 {
        return wrong(format!("stride, dilation and groups must be at least 1, got {config:?}"));
    }
    if kernel_h == 0 || kernel_w == 0 || out_channels == 0 || group_in == 0 {
        return Err(rank("weight", "no empty dimension", weight));
    }
    if in_channels % groups != 0 || out_channels % groups != 0 {
        return wrong(format!(
            "{in_channels} input and {out_channels} output channels are not divisible by {groups} groups"
        ));
    }
    if in_channels / groups != group_in {
        let expected = format!(
            "[{out_channels}, {}, kh, kw] for {in_channels} channels in {groups} groups",
            in_channels / groups
        );
        return Err(rank("weight", &expected, weight));
    }
    let size = |axis: &str, input: usize, kernel: usize| {
        let reach = (kernel - 1).checked_mul(dilation).and_then(|r| r.checked_add(1));
        let padded = padding.checked_mul(2).and_then(|p| p.checked_add(input));
        match (reach, padded) {
            // A bound far above any image keeps every later sum inside 64 bits.
            (Some(reach), Some(padded)) if reach <= padded && padded < 1 << 30 => {
                Ok((padded - reach) / stride + 1)
            }
            _ => Err(Error::Config {
                op: OP,
                message: format!(
                    "a kernel of {kernel} with dilation {dilation} does not fit the {axis} {input} with padding {padding}"
                ),
            }),
        }
    };
    let (out_h, out_w) = (size("height", in_h, kernel_h)?, size("width", in_w, kernel_w)?);
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
