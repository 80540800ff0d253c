//! A network's stem in training as one operation: convolution, batch norm, ReLU and, if there is one,
//! max-pooling.

use crate::config::Pool2dConfig;
use crate::element::Stored;
use crate::error::Result;
use crate::layout::from_nhwc;
use crate::profile::span;
use crate::train::fused::conv_bn::{ConvBn, ConvBnState, Gradients, supports};
use crate::train::fused::elements::{ForwardAs, with_elements};
use crate::train::tape::{needs_gradient, record};
use candle_core::Tensor;
use resnext_kernels::{BlockSink, Isa, MAX_WINDOW, Operand, Shortcut, Window};

/// The layers of a stem.
#[derive(Debug, Clone)]
pub struct Stem {
    /// The convolution with its batch norm; ReLU follows.
    pub conv: ConvBn,
    /// The max-pooling after the ReLU, if there is one.
    pub pool: Option<Pool2dConfig>,
}

impl Stem {
    /// Whether [`Self::forward_train`] can be used for `x`, as for a [`Bottleneck`](crate::Bottleneck). `x`
    /// must not need a gradient, which images do not.
    pub fn supports(&self, x: &Tensor) -> bool {
        supports(x, std::iter::once(&self.conv), None)
            && self.pool.is_none_or(|pool| pool.kernel <= MAX_WINDOW)
            && matches!(needs_gradient("stem", x), Ok(false))
    }

    /// `pool(relu(norm(conv(x))))` of `x` (N, C, H, W), normalised by the batch's statistics, which also move
    /// the running ones. Returns (N, Cout, H', W').
    ///
    /// # Errors
    /// If shapes do not fit each other.
    pub fn forward_train(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_by_dtype(x)
    }
}

impl ForwardAs for Stem {
    fn forward_as<D: Stored>(&self, x: &Tensor) -> Result<Tensor> {
        let shape = self.conv.shape(x.shape())?;
        let x = x.clone();
        let conv: ConvBnState<D> = with_elements(&x, |values| {
            ConvBnState::forward("conv1", &self.conv, shape, Operand::Plain(values))
        })?;
        match self.pool {
            Some(config) => pooled(x, conv, config),
            None => unpooled(x, conv),
        }
    }
}

/// ReLU of the normalised output.
fn unpooled<D: Stored>(x: Tensor, conv: ConvBnState<D>) -> Result<Tensor> {
    let (isa, shape) = (Isa::current(), conv.shape);
    let c = shape.out_channels;
    let y = D::residual_relu(isa, c, conv.affine(), Shortcut::None);
    let y = from_nhwc(&Tensor::from_vec(y, (shape.batch, shape.out_h, shape.out_w, c), x.device())?)?;
    let output = y.detach();
    record(&y, move |gradient| {
        let (g, sums, _) = with_elements(&output, |y| {
            with_elements(gradient, |g| Ok(D::residual_relu_gradient(isa, c, (y, g), conv.centred(), None)))
        })?;
        parameter_gradients(&x, &conv, &g, &sums)
    });
    Ok(y)
}

/// Max-pooling of ReLU of the normalised output.
fn pooled<D: Stored>(x: Tensor, conv: ConvBnState<D>, config: Pool2dConfig) -> Result<Tensor> {
    let (isa, shape) = (Isa::current(), conv.shape);
    let window = Window {
        batch: shape.batch,
        src: (shape.out_h, shape.out_w),
        dst: (config.output(shape.out_h)?, config.output(shape.out_w)?),
        channels: shape.out_channels,
        kernel: config.kernel,
        stride: config.stride,
        padding: config.padding,
    };
    let (y, at) = {
        let _span = span("", "pool");
        D::max_pool(isa, &window, conv.affine())
    };
    let sizes = (window.batch, window.dst.0, window.dst.1, window.channels);
    let y = from_nhwc(&Tensor::from_vec(y, sizes, x.device())?)?;
    record(&y, move |gradient| {
        let gate = BlockSink::Gate(conv.gate());
        let (g, totals) = with_elements(gradient, |gradient| {
            let _span = span("", "pool gradient");
            Ok(D::max_pool_gradient(isa, &window, &at, gradient, gate))
        })?;
        parameter_gradients(&x, &conv, &g, &totals.gradient_sums)
    });
    Ok(y)
}

/// The gradients of the layer's weight, scale and shift, from that of batch norm's output and its sums.
fn parameter_gradients<D: Stored>(
    x: &Tensor,
    conv: &ConvBnState<D>,
    g: &[D],
    sums: &[Vec<f64>; 2],
) -> Result<Gradients> {
    let mut gradients = Vec::new();
    with_elements(x, |values| conv.backward(Operand::Plain(values), g, sums, &mut gradients, None))?;
    Ok(gradients)
}
