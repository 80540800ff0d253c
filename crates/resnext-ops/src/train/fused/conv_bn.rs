//! A convolution and its batch norm in a fused training step.
//!
//! Such a pair keeps the raw convolution output and one scale and shift per channel for the backward pass. The
//! normalised activation is computed again wherever it is read.

use crate::config::BatchNormConfig;
use crate::devices::Backend;
use crate::element::Stored;
use crate::error::Result;
use crate::profile::span;
use crate::shape::{conv_shape, output_shape};
use crate::train::fused::elements::elements;
use crate::train::norm::{RunningStats, check_count, gradient_coefficients, inverse_std, scale_and_shift};
use crate::train::sync_norm::{BatchStatistics, gradient_sums_of_all_processes};
use crate::train::tape::recording;
use candle_core::{DType, Shape, Tensor};
use resnext_kernels::{
    Affine, BlockSink, BlockTotals, Conv2dConfig, ConvShape, Element as _, Gate, Isa, Operand, lanes,
};

/// A convolution without bias, and the batch norm after it, for [`Bottleneck`](crate::Bottleneck) and
/// [`Stem`](crate::Stem).
#[derive(Debug, Clone)]
pub struct ConvBn {
    /// The convolution's weight (Cout, Cin/groups, kh, kw).
    pub weight: Tensor,
    /// The convolution's settings.
    pub conv: Conv2dConfig,
    /// Batch norm's weight and bias (Cout): the scale and shift after normalisation.
    pub scale_shift: (Tensor, Tensor),
    /// Batch norm's running statistics (Cout), which each training step moves towards the batch's.
    pub running: RunningStats,
    /// Batch norm's `eps` and `momentum`. `relu` is ignored: the block decides where ReLUs are.
    pub norm: BatchNormConfig,
}

impl ConvBn {
    /// The sizes of the convolution of an input (N, Cin, H, W).
    ///
    /// # Errors
    /// If they do not fit, or leave batch norm a single value per channel.
    pub(crate) fn shape(&self, x: &Shape) -> Result<ConvShape> {
        let shape = conv_shape("conv2d", x, self.weight.shape(), &self.conv)?;
        check_count(&output_shape(&shape))?;
        Ok(shape)
    }
}

/// Whether the fused path computes on `x` with these layers: on the tape, on a CPU, where each layer's output
/// channels, and `channels` if given, fill whole vectors, and parameters have the type that `x` is computed
/// in.
pub(crate) fn supports<'a>(
    x: &Tensor,
    layers: impl Iterator<Item = &'a ConvBn> + Clone,
    channels: Option<usize>,
) -> bool {
    let isa = Isa::current();
    let (lanes, parameters) = match x.dtype() {
        DType::F64 => (lanes::<f64>(isa), DType::F64),
        _ => (lanes::<f32>(isa), DType::F32),
    };
    let outputs = layers.clone().flat_map(|layer| layer.weight.dims().first().copied());
    recording()
        && x.rank() == 4
        && Backend::of(x) == Backend::Cpu
        && outputs.chain(channels).all(|c| c.is_multiple_of(lanes))
        && layers.map(|layer| &layer.weight).all(|weight| weight.dtype() == parameters)
}

/// A [`ConvBn`] between its forward and its backward pass. Maps are stored as `D`; parameters are
/// `D::Compute`, the type that `D` is computed in.
pub(crate) struct ConvBnState<D: Stored> {
    name: &'static str,
    layer: ConvBn,
    pub(crate) shape: ConvShape,
    isa: Isa,
    weight: Vec<D::Compute>,
    gamma: Vec<f64>,
    /// The convolution's output (N, H', W', Cout); empty where the backward pass computes it again.
    pub(crate) raw: Vec<D>,
    mean: Vec<f64>,
    inv_std: Vec<f64>,
    /// The values per channel that the statistics are of.
    count: usize,
    scale: Vec<D::Compute>,
    shift: Vec<D::Compute>,
}

/// Tensors, and the gradient of each.
pub(crate) type Gradients = Vec<(Tensor, Option<Tensor>)>;

impl<D: Stored> ConvBnState<D> {
    /// Convolves `operand` (N, H, W, Cin) and moves the running statistics. `shape` is the layer's, from
    /// [`ConvBn::shape`].
    pub(crate) fn forward(
        name: &'static str,
        layer: &ConvBn,
        shape: ConvShape,
        operand: Operand<D>,
    ) -> Result<Self> {
        let isa = Isa::current();
        let channels = shape.out_channels;
        let weight = elements::<D::Compute>(&layer.weight)?;
        let (raw, totals) = {
            let _span = span(name, "forward");
            D::conv_forward(isa, &shape, operand, &weight, BlockSink::Statistics)
        };
        let (mean, variance) = totals.statistics;
        let BatchStatistics { mean, variance, count } =
            BatchStatistics { mean, variance, count: shape.output_len() / channels }.of_all_processes()?;
        layer.running.update(&mean, &variance, count, &layer.norm)?;
        let inv_std = inverse_std(&variance, layer.norm.eps);
        let wide = |t: &Tensor| -> Result<Vec<f64>> {
            Ok(elements::<D::Compute>(t)?.into_iter().map(|v| v.as_f64()).collect())
        };
        let (gamma, beta) = (wide(&layer.scale_shift.0)?, wide(&layer.scale_shift.1)?);
        let lines = (0..channels).map(|k| scale_and_shift(gamma[k], beta[k], mean[k], inv_std[k]));
        let (scale, shift) =
            lines.map(|[scale, shift]| (D::Compute::of_f64(scale), D::Compute::of_f64(shift))).unzip();
        Ok(ConvBnState {
            name,
            layer: layer.clone(),
            shape,
            isa,
            weight,
            gamma,
            raw,
            mean,
            inv_std,
            count,
            scale,
            shift,
        })
    }

    /// Computes the convolution's output again if it was dropped.
    pub(crate) fn recompute(&mut self, operand: Operand<D>) {
        if self.raw.is_empty() {
            let _span = span(self.name, "forward again");
            self.raw = D::conv_forward(self.isa, &self.shape, operand, &self.weight, BlockSink::Output).0;
        }
    }

    /// The normalised output before ReLU.
    pub(crate) fn affine(&self) -> Affine<'_, D> {
        Affine { x: &self.raw, scale: &self.scale, shift: &self.shift }
    }

    /// The activation after ReLU, as the next convolution reads it.
    pub(crate) fn activation(&self) -> Operand<'_, D> {
        Operand::Normalised { x: &self.raw, scale: &self.scale, shift: &self.shift }
    }

    /// The raw output and its mean per channel, as batch norm's sums need them.
    pub(crate) fn centred(&self) -> (&[D], &[f64]) {
        (&self.raw, &self.mean)
    }

    /// Turns the gradient of this layer's activation into that of ReLU's input.
    pub(crate) fn gate(&self) -> Gate<'_, D> {
        Gate { x: &self.raw, scale: &self.scale, shift: &self.shift, mean: &self.mean }
    }

    /// The coefficients that make `a·g + b·raw + d` the gradient of `raw`, from batch norm's sums.
    fn coefficients(&self, sums: &[Vec<f64>; 2]) -> Result<[Vec<D::Compute>; 3]> {
        let [sum_g, sum_gx] = gradient_sums_of_all_processes([&sums[0], &sums[1]])?;
        let of = |k: usize| {
            let sums = [sum_g[k], sum_gx[k]];
            gradient_coefficients(self.gamma[k], self.mean[k], self.inv_std[k], sums, self.count)
        };
        Ok([0, 1, 2].map(|i| (0..self.gamma.len()).map(|k| D::Compute::of_f64(of(k)[i])).collect()))
    }

    /// From the gradient `g` of batch norm's output, and its sums: the gradients of weight, scale and shift
    /// go to `gradients`. The input's gradient is computed if `sink` is given, which processes it block by
    /// block, and is returned with the sink's totals.
    pub(crate) fn backward(
        &self,
        operand: Operand<D>,
        g: &[D],
        sums: &[Vec<f64>; 2],
        gradients: &mut Gradients,
        sink: Option<BlockSink<D>>,
    ) -> Result<(Vec<D>, BlockTotals)> {
        let (isa, shape) = (self.isa, &self.shape);
        let [a, b, d] = &self.coefficients(sums)?;
        let gradient = Operand::Gradient { g, x: &self.raw, a, b, d };
        let (input, totals, weight) = match sink {
            Some(sink) => {
                let _span = span(self.name, "gradients");
                D::conv_gradients(isa, shape, operand, gradient, &self.weight, sink)
            }
            None => {
                let _span = span(self.name, "weight gradient");
                let weight = D::conv_weight_gradient(isa, shape, operand, gradient);
                (Vec::new(), BlockTotals::default(), weight)
            }
        };
        self.own_gradients(weight, sums, gradients)?;
        Ok((input, totals))
    }

    /// [`Self::backward`] of a 1×1 convolution, with the input's gradient only at the pixels that its stride
    /// reads.
    pub(crate) fn pixel_gradient(
        &self,
        operand: Operand<D>,
        g: &[D],
        sums: &[Vec<f64>; 2],
        gradients: &mut Gradients,
    ) -> Result<Vec<D>> {
        let [a, b, d] = &self.coefficients(sums)?;
        let gradient = Operand::Gradient { g, x: &self.raw, a, b, d };
        let both = {
            let _span = span(self.name, "gradients");
            D::conv_pixel_gradients(self.isa, &self.shape, operand, gradient, &self.weight)
        };
        let Some((pixels, weight)) = both else { unreachable!("Bottleneck::supports: a projection is 1×1") };
        self.own_gradients(weight, sums, gradients)?;
        Ok(pixels)
    }

    /// Adds the gradients of the layer's weight, scale and shift to `gradients`.
    fn own_gradients(
        &self,
        weight: Vec<D::Compute>,
        sums: &[Vec<f64>; 2],
        gradients: &mut Gradients,
    ) -> Result<()> {
        let device = self.layer.weight.device();
        let mut put = |of: &Tensor, values: Vec<D::Compute>| -> Result<()> {
            gradients.push((of.clone(), Some(Tensor::from_vec(values, of.shape(), device)?)));
            Ok(())
        };
        put(&self.layer.weight, weight)?;
        let scale =
            sums[1].iter().zip(&self.inv_std).map(|(sum, inv)| D::Compute::of_f64(sum * inv)).collect();
        put(&self.layer.scale_shift.0, scale)?;
        put(&self.layer.scale_shift.1, sums[0].iter().map(|&sum| D::Compute::of_f64(sum)).collect())
    }
}
