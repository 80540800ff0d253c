//! A residual block in training as one operation: three convolutions with batch norm, a shortcut, ReLU.
//!
//! Only the raw output of each convolution is kept. Batch norm's statistics are summed while it is written;
//! normalisation and ReLU happen while the next convolution packs it, and their gradients while the gradient
//! convolutions do. None of them takes a pass over memory of its own.

use crate::element::Stored;
use crate::error::{Error, Result};
use crate::layout::from_nhwc;
use crate::profile::span;
use crate::shape::output_shape;
use crate::train::fused::conv_bn::{ConvBn, ConvBnState, Gradients, supports};
use crate::train::fused::elements::{ForwardAs, with_elements};
use crate::train::tape::{needs_gradient, record};
use candle_core::{Shape, Tensor};
use resnext_kernels::{BlockSink, Conv2dConfig, ConvShape, Isa, Operand, Shortcut, StridedGradient};
use std::cell::RefCell;

/// The layers of a bottleneck block in form (c): three convolutions and a shortcut, each convolution with its
/// batch norm.
#[derive(Debug, Clone)]
pub struct Bottleneck {
    /// The 1×1, 3×3 and 1×1 convolutions with their batch norms.
    pub convs: [ConvBn; 3],
    /// The shortcut's projection, where input and output differ in shape.
    pub projection: Option<ConvBn>,
    /// Whether the convolutions' outputs are dropped after the forward pass and computed again in the
    /// backward pass.
    pub recompute: bool,
}

impl Bottleneck {
    /// Whether [`Self::forward_train`] can be used for `x`: inside
    /// [`value_and_gradients`](crate::value_and_gradients), on a CPU, with channels that fill whole vectors,
    /// and where the convolutions that read `x` are 1×1. Anything else goes through the single operations.
    ///
    /// `x` is f32 or f64 like the parameters, or bf16 beside f32 parameters: then all maps and their
    /// gradients are stored as bf16 and computed in f32, with the parameters as they are.
    pub fn supports(&self, x: &Tensor) -> bool {
        let pointwise = |layer: &ConvBn| {
            let Conv2dConfig { padding, groups, .. } = layer.conv;
            layer.weight.dims().get(2..) == Some(&[1, 1]) && padding == 0 && groups == 1
        };
        if !self.projection.iter().chain([&self.convs[0]]).all(pointwise) || self.convs[0].conv.stride != 1 {
            return false;
        }
        supports(x, self.convs.iter().chain(&self.projection), x.dims().get(1).copied())
    }

    /// `max(norm3(conv3(relu(norm2(conv2(relu(norm1(conv1(x))))))) + shortcut(x), 0)` of `x` (N, C, H, W),
    /// normalised by the batch's statistics, which also move the running ones: the block of the paper's
    /// section 3.3 and figure 3 (c). Returns (N, Cout, H', W').
    ///
    /// # Errors
    /// If shapes do not fit each other.
    pub fn forward_train(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_by_dtype(x)
    }

    /// The sizes of all convolutions for an input `x`, whose shortcut must have the shape of the block's
    /// output.
    fn shapes(&self, x: &Shape) -> Result<Shapes> {
        let [conv1, conv2, conv3] = &self.convs;
        let first = conv1.shape(x)?;
        let second = conv2.shape(&output_shape(&first))?;
        let third = conv3.shape(&output_shape(&second))?;
        let projection = self.projection.as_ref().map(|layer| layer.shape(x)).transpose()?;
        let output = output_shape(&third);
        if projection.map_or(x.clone(), |shape| output_shape(&shape)) != output {
            let expected = format!("{output:?}, the shape of the block's output");
            return Err(Error::Shape { op: "bottleneck", input: "the shortcut", expected, got: x.clone() });
        }
        Ok(Shapes { convs: [first, second, third], projection })
    }
}

/// The sizes of a block's convolutions.
struct Shapes {
    convs: [ConvShape; 3],
    projection: Option<ConvShape>,
}

impl ForwardAs for Bottleneck {
    fn forward_as<D: Stored>(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.clone();
        let input_gradient = needs_gradient("bottleneck", &x)?;
        let Shapes { convs: [shape1, shape2, shape3], projection } = self.shapes(x.shape())?;
        let (mut saved, y) = with_elements(&x, |values: &[D]| {
            let operand = Operand::Plain(values);
            let [conv1, conv2, conv3] = &self.convs;
            let first = ConvBnState::forward("conv1", conv1, shape1, operand)?;
            let second = ConvBnState::forward("conv2", conv2, shape2, first.activation())?;
            let third = ConvBnState::forward("conv3", conv3, shape3, second.activation())?;
            let projection = match self.projection.as_ref().zip(projection) {
                Some((layer, shape)) => Some(ConvBnState::forward("downsample.0", layer, shape, operand)?),
                None => None,
            };
            let shortcut = match &projection {
                None => Shortcut::Identity(values),
                Some(conv) => Shortcut::Projection(conv.affine()),
            };
            let y = {
                let _span = span("", "residual sum");
                D::residual_relu(Isa::current(), shape3.out_channels, third.affine(), shortcut)
            };
            let sizes = (shape3.batch, shape3.out_h, shape3.out_w, shape3.out_channels);
            let y = from_nhwc(&Tensor::from_vec(y, sizes, x.device())?)?;
            Ok((Saved { convs: [first, second, third], projection }, y))
        })?;
        if self.recompute {
            saved.convs.iter_mut().chain(&mut saved.projection).for_each(|conv| conv.raw = Vec::new());
        }
        let (saved, output) = (RefCell::new(Some(saved)), y.detach());
        record(&y, move |gradient| {
            let Some(saved) = saved.take() else { unreachable!("a tape is walked once") };
            with_elements(&x, |values| {
                with_elements(&output, |y| {
                    with_elements(gradient, |g| saved.backward((&x, values), (y, g), input_gradient))
                })
            })
        });
        Ok(y)
    }
}

/// The state that the backward pass needs.
struct Saved<D: Stored> {
    convs: [ConvBnState<D>; 3],
    projection: Option<ConvBnState<D>>,
}

impl<D: Stored> Saved<D> {
    /// The gradients of all parameters and, if `input_gradient` is set, of `x`, from the output `y` and its
    /// gradient.
    fn backward(
        self,
        (x, values): (&Tensor, &[D]),
        (y, gradient): (&[D], &[D]),
        input_gradient: bool,
    ) -> Result<Gradients> {
        let Saved { convs: [mut first, mut second, mut third], mut projection } = self;
        let input = Operand::Plain(values);
        first.recompute(input);
        second.recompute(first.activation());
        third.recompute(second.activation());
        if let Some(conv) = &mut projection {
            conv.recompute(input);
        }
        let mut gradients = Vec::new();
        let channels = third.shape.out_channels;
        let shortcut = projection.as_ref().map(ConvBnState::centred);
        let (g, sums, shortcut_sums) = {
            let _span = span("", "residual gradient");
            D::residual_relu_gradient(Isa::current(), channels, (y, gradient), third.centred(), shortcut)
        };
        let gate = Some(BlockSink::Gate(second.gate()));
        let (g2, totals2) = third.backward(second.activation(), &g, &sums, &mut gradients, gate)?;
        drop(third);
        let (gate, sums2) = (Some(BlockSink::Gate(first.gate())), totals2.gradient_sums);
        let (g1, totals1) = second.backward(first.activation(), &g2, &sums2, &mut gradients, gate)?;
        drop((second, g2));
        // The shortcut's gradient is added to the path's while that is in the cache.
        let (shortcut, strides) = match (&projection, shortcut_sums) {
            (Some(conv), Some(sums)) => (conv.pixel_gradient(input, &g, &sums, &mut gradients)?, conv.shape),
            _ => (g, ConvShape { config: Default::default(), ..first.shape }),
        };
        drop(projection);
        let shape = first.shape;
        let add = BlockSink::Add(StridedGradient { values: &shortcut, shape: &strides });
        let sink = input_gradient.then_some(add);
        let (gx, _) = first.backward(input, &g1, &totals1.gradient_sums, &mut gradients, sink)?;
        if input_gradient {
            let gx =
                Tensor::from_vec(gx, (shape.batch, shape.in_h, shape.in_w, shape.in_channels), x.device())?;
            gradients.push((x.clone(), Some(from_nhwc(&gx)?)));
        }
        Ok(gradients)
    }
}
