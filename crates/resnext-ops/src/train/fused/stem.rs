//! The entrance of a network in training as one operation: convolution, batch norm, ReLU and, where there is one,
//! max-pooling.

use crate::config::Pool2dConfig;
use crate::element::Stored;
use crate::error::Result;
use crate::layout::from_nhwc;
use crate::profile::timed;
use crate::train::fused::conv_bn::{ConvNorm, Unit, fused};
use crate::train::fused::elements::with_elements;
use crate::train::tape::{needs_gradient, record};
use candle_core::{DType, Tensor};
use half::bf16;
use resnext_kernels::{BlockSink, Isa, MAX_WINDOW, Operand, Shortcut, Window};

/// The layers of an entrance.
#[derive(Debug, Clone)]
pub struct Stem {
    /// The convolution, with batch norm and ReLU behind it.
    pub conv: ConvNorm,
    /// The pooling behind those.
    pub pool: Option<Pool2dConfig>,
}

impl Stem {
    /// Whether [`Self::forward_train`] can be used for `x`, as for a [`Bottleneck`](crate::Bottleneck); `x` must not
    /// need a gradient, which images don't.
    pub fn takes(&self, x: &Tensor) -> bool {
        fused(x, std::iter::once(&self.conv), None)
            && self.pool.is_none_or(|pool| pool.kernel <= MAX_WINDOW)
            && matches!(needs_gradient("stem", x), Ok(false))
    }

    /// `pool(relu(norm(conv(x))))` with batch statistics, which also move the running ones.
    ///
    /// # Errors
    /// If shapes do not fit each other.
    pub fn forward_train(&self, x: &Tensor) -> Result<Tensor> {
        match x.dtype() {
            DType::F64 => self.run::<f64>(x),
            DType::BF16 => self.run::<bf16>(x),
            _ => self.run::<f32>(x),
        }
    }

    fn run<D: Stored>(&self, x: &Tensor) -> Result<Tensor> {
        let (x, isa) = (x.clone(), Isa::current());
        let unit: Unit<D> = with_elements(&x, |values| {
            Unit::forward("conv1", &self.conv, x.shape(), Operand::Plain(values))
        })?;
        let shape = unit.shape;
        let (n, c) = (shape.batch, shape.out_channels);
        let Some(config) = self.pool else {
            let y = D::residual_relu(isa, c, unit.line(), Shortcut::None);
            let y = from_nhwc(&Tensor::from_vec(y, (n, shape.out_h, shape.out_w, c), x.device())?)?;
            let output = y.detach();
            record(&y, move |gradient| {
                let (g, sums, _) = with_elements(&output, |y| {
                    with_elements(gradient, |g| {
                        Ok(D::residual_relu_gradient(isa, c, (y, g), unit.centred(), None))
                    })
                })?;
                own_gradients(&x, &unit, &g, &sums)
            });
            return Ok(y);
        };
        let window = Window {
            batch: n,
            src: (shape.out_h, shape.out_w),
            dst: (config.output(shape.out_h)?, config.output(shape.out_w)?),
            channels: c,
            kernel: config.kernel,
            stride: config.stride,
            padding: config.padding,
        };
        let (y, at) = timed("", "pool", || D::max_pool(isa, &window, unit.line()));
        let y = from_nhwc(&Tensor::from_vec(y, (n, window.dst.0, window.dst.1, c), x.device())?)?;
        record(&y, move |gradient| {
            let gate = BlockSink::Gate(unit.gate());
            let (g, totals) = with_elements(gradient, |gradient| {
                Ok(timed("", "pool gradient", || D::max_pool_gradient(isa, &window, &at, gradient, gate)))
            })?;
            own_gradients(&x, &unit, &g, &totals.gradient_sums)
        });
        Ok(y)
    }
}

/// The gradients of the layer's own parameters.
fn own_gradients<D: Stored>(
    x: &Tensor,
    unit: &Unit<D>,
    g: &[D],
    sums: &[Vec<f64>; 2],
) -> Result<Vec<(Tensor, Option<Tensor>)>> {
    let mut gradients = Vec::new();
    with_elements(x, |values| unit.backward(Operand::Plain(values), g, sums, &mut gradients, None))?;
    Ok(gradients)
}
