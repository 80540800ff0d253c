//! Convolution from candle's own operations, for devices and types without kernels of this project.
//!
//! The padded input is viewed once for each kernel position (kh·kw strided views), the views are stacked, and
//! one batched matmul, with one batch entry per group, does the arithmetic. The number of launches depends on
//! the kernel's size, not on the number of groups. candle's autograd differentiates it.

use crate::error::Result;
use crate::layout::to_nhwc;
use candle_core::Tensor;
use resnext_kernels::ConvShape;

/// `conv2d` by candle's operations, for sizes that have been checked. Returns (N, C, H, W).
pub(crate) fn conv2d(x: &Tensor, weight: &Tensor, shape: &ConvShape) -> Result<Tensor> {
    let ConvShape { batch, out_h, out_w, .. } = *shape;
    let (groups, group_in, group_out) = (shape.config.groups, shape.group_in(), shape.group_out());
    let pixels = batch * out_h * out_w;
    let padding = shape.config.padding;
    let x = to_nhwc(x)?.pad_with_zeros(1, padding, padding)?.pad_with_zeros(2, padding, padding)?;
    let mut views = Vec::with_capacity(shape.kernel_positions());
    for ky in 0..shape.kernel_h {
        for kx in 0..shape.kernel_w {
            let rows = every(&x, 1, ky * shape.config.dilation, shape.config.stride, out_h)?;
            let view = every(&rows, 2, kx * shape.config.dilation, shape.config.stride, out_w)?;
            views.push(view.reshape((pixels, groups, 1, group_in))?);
        }
    }
    // (pixels, groups, taps, Cin/g) -> (groups, pixels, taps·Cin/g)
    let columns = Tensor::cat(&views, 2)?
        .reshape((pixels, groups, shape.kernel_positions() * group_in))?
        .transpose(0, 1)?
        .contiguous()?;
    // (Cout, Cin/g, kh, kw) -> (groups, taps·Cin/g, Cout/g)
    let weight = weight
        .reshape((groups, group_out, group_in, shape.kernel_positions()))?
        .permute((0, 3, 2, 1))?
        .contiguous()?
        .reshape((groups, shape.kernel_positions() * group_in, group_out))?;
    let y = columns.matmul(&weight)?.transpose(0, 1)?.contiguous()?;
    Ok(y.reshape((batch, out_h, out_w, shape.out_channels))?.permute((0, 3, 1, 2))?)
}

/// `count` elements along dimension `dim`: `start`, `start + step` and so on.
pub(crate) fn every(
    x: &Tensor,
    dim: usize,
    start: usize,
    step: usize,
    count: usize,
) -> candle_core::Result<Tensor> {
    if step == 1 {
        return x.narrow(dim, start, count);
    }
    let indices = Tensor::from_iter((0..count).map(|i| (start + i * step) as u32), x.device())?;
    x.index_select(&indices, dim)
}
