//! Convolutions in training: the choice of kernel, for the forward pass and both gradients.
//!
//! 1×1 convolutions are matrix products, a network's first convolution is one over patches (im2col), grouped 3×3
//! convolutions have kernels of their own, and the direct kernels compute everything else.

use super::block_sink::{BlockSink, Blocks};
use super::blocks::finished;
use super::direct;
use super::direct_wgrad;
use super::gemm::{GemmRows, PackedMatrix, gemm};
use super::gemm_wgrad::{MAX_READ, WgradInput, gemm_wgrad};
use super::grouped3x3;
use super::operand::Operand;
use super::pointwise_backward;
use super::strided_gradient::StridedGradient;
use crate::conv_kernel::ConvKernel;
use crate::shape::ConvShape;
use crate::simd::dispatch::{Isa, lanes};
use crate::simd::traits::{Element, Storage};
use rayon::prelude::*;

enum Kind {
    Pointwise,
    Patches,
    Grouped,
    Other,
}

fn kind<T: Element>(isa: Isa, shape: &ConvShape) -> Kind {
    let lanes = lanes::<T>(isa);
    let config = shape.config;
    let dense = config.groups == 1 && shape.out_channels.is_multiple_of(lanes);
    if dense
        && shape.kernel_positions() == 1
        && config.padding == 0
        && shape.in_channels.is_multiple_of(lanes)
    {
        Kind::Pointwise
    } else if dense
        && config.dilation == 1
        && shape.in_channels < lanes
        && shape.kernel_positions() * shape.in_channels <= MAX_READ - lanes
    {
        Kind::Patches
    } else if grouped3x3::walk::supports::<T>(isa, shape) {
        Kind::Grouped
    } else {
        Kind::Other
    }
}

/// The kernels of the forward pass, of the input's gradient and of the weight's.
pub fn kernels<T: Element>(isa: Isa, shape: &ConvShape) -> [ConvKernel; 3] {
    match kind::<T>(isa, shape) {
        Kind::Pointwise => [ConvKernel::MatrixProduct; 3],
        Kind::Patches => [ConvKernel::PatchProduct, ConvKernel::Direct, ConvKernel::PatchProduct],
        Kind::Grouped => {
            let maps = |backward| grouped3x3::forward::kernel::<T>(isa, shape, backward);
            [maps(false), maps(true), ConvKernel::Grouped3x3]
        }
        Kind::Other => [ConvKernel::Direct; 3],
    }
}

/// The convolution of `x` (N, H, W, Cin) with `weight` (Cout, Cin/groups, kh, kw), and what `sink` computed from each block
/// of pixels, in order.
pub fn conv_forward<D: Storage>(
    isa: Isa,
    shape: &ConvShape,
    x: Operand<D>,
    weight: &[D::Compute],
    sink: BlockSink<D>,
) -> (Vec<D>, Blocks<D>) {
    assert!(x.len() == shape.input_len() && weight.len() == shape.weight_len());
    let pixels = shape.batch * shape.out_h * shape.out_w;
    let (inputs, size, stride) = (shape.in_channels, (shape.in_h, shape.in_w), shape.config.stride);
    match (kind::<D::Compute>(isa, shape), x) {
        (Kind::Pointwise, operand) => {
            let matrix = PackedMatrix::pack(isa, shape.out_channels, inputs, |k, c| weight[k * inputs + c]);
            gemm(isa, GemmRows::Pixels { operand, size, stride }, pixels, &matrix, sink)
        }
        (Kind::Patches, Operand::Plain(x)) => {
            let taps = shape.kernel_positions();
            let at = |k: usize, i: usize| weight[(k * inputs + i % inputs) * taps + i / inputs];
            let matrix = PackedMatrix::pack(isa, shape.out_channels, taps * inputs, at);
            gemm(isa, GemmRows::Patches { x, shape }, pixels, &matrix, sink)
        }
        (Kind::Grouped, operand) => grouped3x3::forward::forward(
            isa,
            shape,
            operand,
            &grouped3x3::forward::PackedKernels::forward(isa, shape, weight),
            sink,
        ),
        (_, operand) => {
            let x = operand.values(isa);
            let out = direct::forward(isa, shape, &x, weight);
            finished(isa, D::narrow_all(out), shape.out_channels, sink)
        }
    }
}

/// The gradient of a convolution's input from that of its output, and what `sink` computed from each of its blocks.
pub fn conv_input_gradient<D: Storage>(
    isa: Isa,
    shape: &ConvShape,
    gradient: Operand<D>,
    weight: &[D::Compute],
    sink: BlockSink<D>,
) -> (Vec<D>, Blocks<D>) {
    assert!(gradient.len() == shape.output_len() && weight.len() == shape.weight_len());
    match kind::<D::Compute>(isa, shape) {
        Kind::Pointwise if shape.config.stride == 1 => pointwise(isa, shape, gradient, weight, sink),
        Kind::Pointwise => {
            let (few, _) = pointwise(isa, shape, gradient, weight, BlockSink::Output);
            let mut out = vec![D::default(); shape.input_len()];
            let image = shape.in_h * shape.in_w;
            out.par_chunks_mut((image * shape.in_channels).max(1)).enumerate().for_each(|(n, out)| {
                StridedGradient { values: &few, shape }.add(isa, n * image, out);
            });
            finished(isa, out, shape.in_channels, sink)
        }
        Kind::Grouped => grouped3x3::forward::input_gradient(
            isa,
            shape,
            gradient,
            &grouped3x3::forward::PackedKernels::backward(isa, shape, weight),
            sink,
        ),
        _ => {
            let gradient = gradient.values(isa);
            let out = direct::input_gradient(isa, shape, &gradient, weight);
            finished(isa, D::narrow_all(out), shape.in_channels, sink)
        }
    }
}

/// Both gradients of a convolution: the input's and what `sink` computed from its blocks, as [`conv_input_gradient`] returns
/// them, and the weight's, as [`conv_weight_gradient`] does.
pub fn conv_gradients<D: Storage>(
    isa: Isa,
    shape: &ConvShape,
    x: Operand<D>,
    gradient: Operand<D>,
    weight: &[D::Compute],
    sink: BlockSink<D>,
) -> (Vec<D>, Blocks<D>, Vec<D::Compute>) {
    if matches!(kind::<D::Compute>(isa, shape), Kind::Pointwise) && shape.config.stride == 1 {
        return pointwise_both(isa, shape, x, gradient, weight, sink);
    }
    let own = conv_weight_gradient(isa, shape, x, gradient);
    let (input, results) = conv_input_gradient(isa, shape, gradient, weight, sink);
    (input, results, own)
}

/// Both gradients of a 1×1 convolution, the input's only for the pixels that the stride reads, which [`StridedGradient`]
/// adds to the whole. `None` for other convolutions.
pub fn conv_pixel_gradients<D: Storage>(
    isa: Isa,
    shape: &ConvShape,
    x: Operand<D>,
    gradient: Operand<D>,
    weight: &[D::Compute],
) -> Option<(Vec<D>, Vec<D::Compute>)> {
    matches!(kind::<D::Compute>(isa, shape), Kind::Pointwise).then(|| {
        let (pixels, _, own) = pointwise_both(isa, shape, x, gradient, weight, BlockSink::Output);
        (pixels, own)
    })
}

/// Both gradients of a 1×1 convolution, the input's only for the pixels that the stride reads.
fn pointwise_both<D: Storage>(
    isa: Isa,
    shape: &ConvShape,
    operand: Operand<D>,
    gradient: Operand<D>,
    weight: &[D::Compute],
    sink: BlockSink<D>,
) -> (Vec<D>, Blocks<D>, Vec<D::Compute>) {
    assert!(operand.len() == shape.input_len() && gradient.len() == shape.output_len());
    let (channels, outputs) = (shape.in_channels, shape.out_channels);
    if !pointwise_backward::supports::<D::Compute>(isa, channels, outputs) {
        let own = conv_weight_gradient(isa, shape, operand, gradient);
        let (pixels, results) = pointwise(isa, shape, gradient, weight, sink);
        return (pixels, results, own);
    }
    let (size, stride) = ((shape.in_h, shape.in_w), shape.config.stride);
    let input = pointwise_backward::Input { operand, channels, size, stride };
    let matrix = transposed(isa, shape, weight);
    let pixels = shape.batch * shape.out_h * shape.out_w;
    pointwise_backward::gradients(isa, input, gradient, &matrix, pixels, sink)
}

/// A 1×1 convolution's weight, packed as the matrix from outputs to inputs.
fn transposed<T: Element>(isa: Isa, shape: &ConvShape, weight: &[T]) -> PackedMatrix<T> {
    let inputs = shape.in_channels;
    PackedMatrix::pack(isa, inputs, shape.out_channels, |c, k| weight[k * inputs + c])
}

fn pointwise<D: Storage>(
    isa: Isa,
    shape: &ConvShape,
    operand: Operand<D>,
    weight: &[D::Compute],
    sink: BlockSink<D>,
) -> (Vec<D>, Blocks<D>) {
    let pixels = shape.batch * shape.out_h * shape.out_w;
    let size = (shape.out_h, shape.out_w);
    let matrix = transposed(isa, shape, weight);
    gemm(isa, GemmRows::Pixels { operand, size, stride: 1 }, pixels, &matrix, sink)
}

/// The gradient of the weight (Cout, Cin/groups, kh, kw) from the convolution's input and the gradient of its output.
pub fn conv_weight_gradient<D: Storage>(
    isa: Isa,
    shape: &ConvShape,
    x: Operand<D>,
    gradient: Operand<D>,
) -> Vec<D::Compute> {
    assert!(x.len() == shape.input_len() && gradient.len() == shape.output_len());
    let pixels = shape.batch * shape.out_h * shape.out_w;
    let (channels, outputs) = (shape.in_channels, shape.out_channels);
    match (kind::<D::Compute>(isa, shape), x) {
        (Kind::Pointwise, operand) => {
            let (size, stride) = ((shape.in_h, shape.in_w), shape.config.stride);
            gemm_wgrad(isa, WgradInput::Pixels { operand, channels, size, stride }, gradient, outputs, pixels)
        }
        (Kind::Patches, Operand::Plain(x)) => {
            let taps = shape.kernel_positions();
            let sums = gemm_wgrad(isa, WgradInput::Patches { x, shape }, gradient, outputs, pixels);
            let row = taps * channels;
            (0..outputs * row).map(|i| sums[i / row * row + i % taps * channels + i % row / taps]).collect()
        }
        (Kind::Grouped, x) => grouped3x3::weight_gradient::weight_gradient(isa, shape, x, gradient),
        (_, x) => {
            let (x, gradient) = (x.values(isa), gradient.values(isa));
            direct_wgrad::weight_gradient(isa, shape, &x, &gradient)
        }
    }
}
