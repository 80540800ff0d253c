//! The entry points of the training kernels.
//!
//! They are methods of traits that this crate implements for concrete types, so that all vector code is compiled here,
//! once for each type and instruction set, and never again in a crate that calls it.

use super::batch_norm;
use super::block_sink::{BlockSink, BlockTotals};
use super::conv;
use super::max_pool::{self, Window};
use super::operand::{Affine, Operand};
use super::per_channel;
use super::residual::{self, Shortcut, Totals};
use crate::conv_kernel::ConvKernel;
use crate::shape::ConvShape;
use crate::simd::dispatch::Isa;
use crate::simd::traits::{Element, Storage};
use half::bf16;

/// Kernels for maps that are stored as `Self`, channels-last: f32, f64, and bf16, which is computed in f32.
///
/// All methods run on the threads of the current rayon pool, and panic if the length of a slice does not fit its shape.
pub trait TrainKernels: Storage {
    /// The kernels of a convolution's forward pass, of its input's gradient and of its weight's.
    fn conv_kernels(isa: Isa, shape: &ConvShape) -> [ConvKernel; 3];

    /// The convolution of `x` (N, H, W, Cin) with `weight` (Cout, Cin/groups, kh, kw): (N, H', W', Cout), and what
    /// `sink` computed from it.
    fn conv_forward(
        isa: Isa,
        shape: &ConvShape,
        x: Operand<Self>,
        weight: &[Self::Compute],
        sink: BlockSink<Self>,
    ) -> (Vec<Self>, BlockTotals);

    /// The gradient of the convolution's input (N, H, W, Cin) from that of its output (N, H', W', Cout), and what `sink`
    /// computed from it.
    fn conv_input_gradient(
        isa: Isa,
        shape: &ConvShape,
        gradient: Operand<Self>,
        weight: &[Self::Compute],
        sink: BlockSink<Self>,
    ) -> (Vec<Self>, BlockTotals);

    /// The gradient of the weight (Cout, Cin/groups, kh, kw) from the convolution's input and its output's gradient.
    fn conv_weight_gradient(
        isa: Isa,
        shape: &ConvShape,
        x: Operand<Self>,
        gradient: Operand<Self>,
    ) -> Vec<Self::Compute>;

    /// Both gradients of a convolution: the input's (N, H, W, Cin), what `sink` computed from it, and the weight's
    /// (Cout, Cin/groups, kh, kw).
    fn conv_gradients(
        isa: Isa,
        shape: &ConvShape,
        x: Operand<Self>,
        gradient: Operand<Self>,
        weight: &[Self::Compute],
        sink: BlockSink<Self>,
    ) -> (Vec<Self>, BlockTotals, Vec<Self::Compute>);

    /// Both gradients of a 1×1 convolution, the input's only for the pixels that the stride reads (N, H', W', Cin): a
    /// [`StridedGradient`](crate::StridedGradient) adds it to the whole. `None` for other convolutions.
    fn conv_pixel_gradients(
        isa: Isa,
        shape: &ConvShape,
        x: Operand<Self>,
        gradient: Operand<Self>,
        weight: &[Self::Compute],
    ) -> Option<(Vec<Self>, Vec<Self::Compute>)>;

    /// `max(path + shortcut, 0)`, the output of a residual block, (pixels, channels). `channels` must fill whole
    /// vectors ([`lanes`](crate::lanes)).
    fn residual_relu(isa: Isa, channels: usize, path: Affine<Self>, shortcut: Shortcut<Self>) -> Vec<Self>;

    /// From the `output` of [`Self::residual_relu`] and its gradient, (pixels, channels) each: the gradient of
    /// `path + shortcut`, and batch norm's sums for the path's last convolution, given as its raw output and means, and for
    /// the shortcut's if it has one.
    fn residual_relu_gradient(
        isa: Isa,
        channels: usize,
        output: (&[Self], &[Self]),
        path: (&[Self], &[f64]),
        shortcut: Option<(&[Self], &[f64])>,
    ) -> (Vec<Self>, Totals, Option<Totals>);

    /// The maximum of `max(affine, 0)` in every window (N, H', W', C), and its row-major position in the window. The
    /// first of equal maxima counts.
    fn max_pool(isa: Isa, window: &Window, affine: Affine<Self>) -> (Vec<Self>, Vec<u8>);

    /// The gradient (N, H, W, C) of [`Self::max_pool`]'s input, from the positions `at` it returned and the output's
    /// gradient (N, H', W', C), and what `sink` computed from it.
    fn max_pool_gradient(
        isa: Isa,
        window: &Window,
        at: &[u8],
        gradient: &[Self],
        sink: BlockSink<Self>,
    ) -> (Vec<Self>, BlockTotals);
}

/// Batch norm's passes over maps (pixels, channels) of f32 or f64. Coefficients and results per channel have one entry
/// per channel.
pub trait BatchNormKernels: Element {
    /// The mean and biased variance of each channel.
    fn mean_and_variance(isa: Isa, x: &[Self], channels: usize) -> (Vec<f64>, Vec<f64>);

    /// `x·scale + shift` per channel, and with `relu` the maximum of that and zero.
    fn scale_shift(isa: Isa, x: &[Self], scale: &[Self], shift: &[Self], relu: bool) -> Vec<Self>;

    /// `g` where `y` is above zero, and zero elsewhere.
    fn where_positive(isa: Isa, channels: usize, y: &[Self], g: &[Self]) -> Vec<Self>;

    /// `Σ g` and `Σ g·(x - mean)` per channel. With `y`, the output of a ReLU, `g` counts where `y` is above zero only.
    fn channel_sums(
        isa: Isa,
        g: &[Self],
        y: Option<&[Self]>,
        x: &[Self],
        mean: &[Self],
    ) -> (Vec<f64>, Vec<f64>);

    /// `a·g + b·x + d` per channel.
    fn combine(isa: Isa, g: &[Self], x: &[Self], coefficients: [&[Self]; 3]) -> Vec<Self>;
}

macro_rules! train_kernels {
    ($t:ty) => {
        impl TrainKernels for $t {
            fn conv_kernels(isa: Isa, shape: &ConvShape) -> [ConvKernel; 3] {
                conv::kernels::<Self::Compute>(isa, shape)
            }
            #[inline(never)]
            fn conv_forward(
                isa: Isa,
                shape: &ConvShape,
                x: Operand<Self>,
                weight: &[Self::Compute],
                sink: BlockSink<Self>,
            ) -> (Vec<Self>, BlockTotals) {
                let (out, blocks) = conv::conv_forward(isa, shape, x, weight, sink);
                (out, BlockTotals::of(shape.out_channels, blocks))
            }
            #[inline(never)]
            fn conv_input_gradient(
                isa: Isa,
                shape: &ConvShape,
                gradient: Operand<Self>,
                weight: &[Self::Compute],
                sink: BlockSink<Self>,
            ) -> (Vec<Self>, BlockTotals) {
                let (out, blocks) = conv::conv_input_gradient(isa, shape, gradient, weight, sink);
                (out, BlockTotals::of(shape.in_channels, blocks))
            }
            #[inline(never)]
            fn conv_weight_gradient(
                isa: Isa,
                shape: &ConvShape,
                x: Operand<Self>,
                gradient: Operand<Self>,
            ) -> Vec<Self::Compute> {
                conv::conv_weight_gradient(isa, shape, x, gradient)
            }
            #[inline(never)]
            fn conv_gradients(
                isa: Isa,
                shape: &ConvShape,
                x: Operand<Self>,
                gradient: Operand<Self>,
                weight: &[Self::Compute],
                sink: BlockSink<Self>,
            ) -> (Vec<Self>, BlockTotals, Vec<Self::Compute>) {
                let (input, blocks, own) = conv::conv_gradients(isa, shape, x, gradient, weight, sink);
                (input, BlockTotals::of(shape.in_channels, blocks), own)
            }
            #[inline(never)]
            fn conv_pixel_gradients(
                isa: Isa,
                shape: &ConvShape,
                x: Operand<Self>,
                gradient: Operand<Self>,
                weight: &[Self::Compute],
            ) -> Option<(Vec<Self>, Vec<Self::Compute>)> {
                conv::conv_pixel_gradients(isa, shape, x, gradient, weight)
            }
            #[inline(never)]
            fn residual_relu(
                isa: Isa,
                channels: usize,
                path: Affine<Self>,
                shortcut: Shortcut<Self>,
            ) -> Vec<Self> {
                residual::residual_relu(isa, channels, path, shortcut)
            }
            #[inline(never)]
            fn residual_relu_gradient(
                isa: Isa,
                channels: usize,
                output: (&[Self], &[Self]),
                path: (&[Self], &[f64]),
                shortcut: Option<(&[Self], &[f64])>,
            ) -> (Vec<Self>, Totals, Option<Totals>) {
                residual::residual_relu_gradient(isa, channels, output, path, shortcut)
            }
            #[inline(never)]
            fn max_pool(isa: Isa, window: &Window, affine: Affine<Self>) -> (Vec<Self>, Vec<u8>) {
                max_pool::max_pool(isa, window, affine)
            }
            #[inline(never)]
            fn max_pool_gradient(
                isa: Isa,
                window: &Window,
                at: &[u8],
                gradient: &[Self],
                sink: BlockSink<Self>,
            ) -> (Vec<Self>, BlockTotals) {
                let (out, blocks) = max_pool::max_pool_gradient(isa, window, at, gradient, sink);
                (out, BlockTotals::of(window.channels, blocks))
            }
        }
    };
}
train_kernels!(f32);
train_kernels!(f64);
train_kernels!(bf16);

macro_rules! batch_norm_kernels {
    ($t:ty) => {
        impl BatchNormKernels for $t {
            #[inline(never)]
            fn mean_and_variance(isa: Isa, x: &[Self], channels: usize) -> (Vec<f64>, Vec<f64>) {
                batch_norm::mean_and_variance(isa, x, channels)
            }
            #[inline(never)]
            fn scale_shift(isa: Isa, x: &[Self], scale: &[Self], shift: &[Self], relu: bool) -> Vec<Self> {
                per_channel::scale_shift(isa, x, scale, shift, relu)
            }
            #[inline(never)]
            fn where_positive(isa: Isa, channels: usize, y: &[Self], g: &[Self]) -> Vec<Self> {
                per_channel::where_positive(isa, channels, y, g)
            }
            #[inline(never)]
            fn channel_sums(
                isa: Isa,
                g: &[Self],
                y: Option<&[Self]>,
                x: &[Self],
                mean: &[Self],
            ) -> (Vec<f64>, Vec<f64>) {
                batch_norm::channel_sums(isa, g, y, x, mean)
            }
            #[inline(never)]
            fn combine(isa: Isa, g: &[Self], x: &[Self], coefficients: [&[Self]; 3]) -> Vec<Self> {
                per_channel::combine(isa, g, x, coefficients)
            }
        }
    };
}
batch_norm_kernels!(f32);
batch_norm_kernels!(f64);
