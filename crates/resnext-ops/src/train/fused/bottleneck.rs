//! A residual block in training as one operation: three convolutions with batch norm, a shortcut, ReLU.
//!
//! Of each convolution only its result is kept. Batch norm's statistics come with it, normalisation and ReLU happen
//! while the next convolution reads it, and their gradients while the gradients' convolutions do: no pass over
//! memory is made for them alone.

use crate::element::Stored;
use crate::error::{Error, Result};
use crate::layout::from_nhwc;
use crate::profile::timed;
use crate::train::fused::conv_bn::{ConvNorm, Unit, UnitGradients, fused};
use crate::train::fused::elements::with_elements;
use crate::train::tape::{needs_gradient, record};
use candle_core::{DType, Tensor};
use half::bf16;
use resnext_kernels::{BlockSink, Conv2dConfig, ConvShape, Isa, Operand, Shortcut, StridedGradient};
use std::cell::RefCell;

/// The layers of a residual block.
#[derive(Debug, Clone)]
pub struct Bottleneck {
    /// 1×1, 3×3 and 1×1.
    pub convs: [ConvNorm; 3],
    /// The shortcut's projection, where shapes differ.
    pub projection: Option<ConvNorm>,
    /// Whether the convolutions' results are given up after the forward pass, and computed again in the backward one.
    pub recompute: bool,
}

impl Bottleneck {
    /// Whether [`Self::forward_train`] can be used for `x`: inside [`value_and_gradients`](crate::value_and_gradients),
    /// on a CPU, with channels that fill vectors, and where what reads `x` are 1×1 convolutions. Anything else goes
    /// through the operations one by one.
    ///
    /// `x` is f32 or f64 like the parameters, or bf16 beside parameters of f32: then all maps and their gradients are
    /// bf16 in memory, and computed in f32 with the parameters as they are.
    pub fn takes(&self, x: &Tensor) -> bool {
        let pointwise = |unit: &ConvNorm| {
            let Conv2dConfig { padding, groups, .. } = unit.conv;
            unit.weight.dims().get(2..) == Some(&[1, 1]) && padding == 0 && groups == 1
        };
        if !self.projection.iter().chain([&self.convs[0]]).all(pointwise) || self.convs[0].conv.stride != 1 {
            return false;
        }
        fused(x, self.convs.iter().chain(&self.projection), x.dims().get(1).copied())
    }

    /// `max(norm3(conv3(relu(norm2(conv2(relu(norm1(conv1(x))))))) + shortcut(x), 0)` with batch statistics, which
    /// also move the running ones.
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
        let x = x.clone();
        let input_gradient = needs_gradient("bottleneck", &x)?;
        let (mut saved, y) = with_elements(&x, |values: &[D]| {
            let operand = Operand::Plain(values);
            let [conv1, conv2, conv3] = &self.convs;
            let first = Unit::forward("conv1", conv1, x.shape(), operand)?;
            let second = Unit::forward("conv2", conv2, &first.output(), first.activation())?;
            let third = Unit::forward("conv3", conv3, &second.output(), second.activation())?;
            let project = |layer| Unit::forward("downsample.0", layer, x.shape(), operand);
            let projection = self.projection.as_ref().map(project).transpose()?;
            let around = match &projection {
                None if x.shape() == &third.output() => Shortcut::Identity(values),
                Some(unit) if unit.output() == third.output() => Shortcut::Projection(unit.line()),
                _ => {
                    let expected = format!("{:?}, the shape of the block's output", third.output());
                    let got = x.shape().clone();
                    return Err(Error::Shape { op: "bottleneck", input: "the shortcut", expected, got });
                }
            };
            let join = || D::residual_relu(Isa::current(), third.shape.out_channels, third.line(), around);
            let y = timed("", "join", join);
            let shape = &third.shape;
            let y =
                Tensor::from_vec(y, (shape.batch, shape.out_h, shape.out_w, shape.out_channels), x.device())?;
            Ok((Saved { units: [first, second, third], projection }, from_nhwc(&y)?))
        })?;
        if self.recompute {
            saved.units.iter_mut().chain(&mut saved.projection).for_each(|unit| unit.raw = Vec::new());
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

/// What the backward pass needs.
struct Saved<D: Stored> {
    units: [Unit<D>; 3],
    projection: Option<Unit<D>>,
}

impl<D: Stored> Saved<D> {
    fn backward(
        self,
        (x, values): (&Tensor, &[D]),
        (y, gradient): (&[D], &[D]),
        input_gradient: bool,
    ) -> Result<UnitGradients> {
        let Saved { units: [mut first, mut second, mut third], mut projection } = self;
        let input = Operand::Plain(values);
        first.recompute(input);
        second.recompute(first.activation());
        third.recompute(second.activation());
        if let Some(unit) = &mut projection {
            unit.recompute(input);
        }
        let mut gradients = Vec::new();
        let channels = third.shape.out_channels;
        let around = projection.as_ref().map(Unit::centred);
        let (g, sums, around_sums) = timed("", "join gradient", || {
            D::residual_relu_gradient(Isa::current(), channels, (y, gradient), third.centred(), around)
        });
        let gate = Some(BlockSink::Gate(second.gate()));
        let (g2, totals2) = third.backward(second.activation(), &g, &sums, &mut gradients, gate)?;
        drop(third);
        let (gate, sums2) = (Some(BlockSink::Gate(first.gate())), totals2.gradient_sums);
        let (g1, totals1) = second.backward(first.activation(), &g2, &sums2, &mut gradients, gate)?;
        drop((second, g2));
        // The shortcut's gradient joins that of the path while it is in the cache.
        let (around, strides) = match (&projection, around_sums) {
            (Some(unit), Some(sums)) => (unit.pixel_gradient(input, &g, &sums, &mut gradients)?, unit.shape),
            _ => (g, ConvShape { config: Default::default(), ..first.shape }),
        };
        drop(projection);
        let shape = first.shape;
        let add = BlockSink::Add(StridedGradient { values: &around, shape: &strides });
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
