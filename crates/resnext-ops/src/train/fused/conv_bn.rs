//! What training keeps of a convolution with the batch norm behind it: the convolution's result, and a line a
//! channel. The normalised activation is made again wherever it is read.

use crate::config::BatchNormConfig;
use crate::devices::has_cpu_kernel;
use crate::element::Stored;
use crate::error::{Error, Result};
use crate::profile::timed;
use crate::shape::checked_shape;
use crate::train::fused::elements::elements;
use crate::train::norm::RunningStats;
use crate::train::tape::recording;
use candle_core::{DType, Shape, Tensor};
use resnext_kernels::{
    Affine, BlockSink, BlockTotals, Conv2dConfig, ConvShape, Element as _, Gate, Isa, Operand, lanes,
};

/// A convolution without bias and the batch norm behind it.
#[derive(Debug, Clone)]
pub struct ConvNorm {
    /// (Cout, Cin/groups, kh, kw).
    pub weight: Tensor,
    /// Of the convolution.
    pub conv: Conv2dConfig,
    /// Scale and shift after normalisation (Cout).
    pub scale_shift: (Tensor, Tensor),
    /// Moved towards each batch's statistics.
    pub running: RunningStats,
}

/// One of them in the middle of a training step. Maps are of type `D` in memory, parameters of what that is computed in.
pub(crate) struct Unit<D: Stored> {
    name: &'static str,
    pub(crate) layer: ConvNorm,
    pub(crate) shape: ConvShape,
    isa: Isa,
    weight: Vec<D::Compute>,
    gamma: Vec<f64>,
    /// The convolution's result; empty where it is to be computed again.
    pub(crate) raw: Vec<D>,
    pub(crate) mean: Vec<f64>,
    inv_std: Vec<f64>,
    pub(crate) scale: Vec<D::Compute>,
    pub(crate) shift: Vec<D::Compute>,
}

/// The gradients of one's weight, scale and shift.
pub(crate) type UnitGradients = Vec<(Tensor, Option<Tensor>)>;

impl<D: Stored> Unit<D> {
    /// Convolves an operand shaped `x` (N, C, H, W), and moves the running statistics.
    pub(crate) fn forward(
        name: &'static str,
        layer: &ConvNorm,
        x: &Shape,
        operand: Operand<D>,
    ) -> Result<Self> {
        let isa = Isa::current();
        let shape = checked_shape(x, layer.weight.shape(), &layer.conv)?;
        let channels = shape.out_channels;
        let count = shape.output_len() / channels;
        if count < 2 {
            let expected = "more than one value a channel when training".to_string();
            return Err(Error::Shape { op: "batch_norm", input: "x", expected, got: x.clone() });
        }
        let weight = elements::<D::Compute>(&layer.weight)?;
        let (raw, totals) =
            timed(name, "forward", || D::conv_forward(isa, &shape, operand, &weight, BlockSink::Statistics));
        let BlockTotals { statistics: (mean, variance), .. } = totals;
        layer.running.update(&mean, &variance, count, &BatchNormConfig::default())?;
        let eps = BatchNormConfig::default().eps;
        let inv_std: Vec<f64> = variance.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
        let wide = |t: &Tensor| -> Result<Vec<f64>> {
            Ok(elements::<D::Compute>(t)?.into_iter().map(|v| v.as_f64()).collect())
        };
        let (gamma, beta) = (wide(&layer.scale_shift.0)?, wide(&layer.scale_shift.1)?);
        let scale = (0..channels).map(|k| D::Compute::of_f64(gamma[k] * inv_std[k])).collect();
        let shift =
            (0..channels).map(|k| D::Compute::of_f64(beta[k] - gamma[k] * inv_std[k] * mean[k])).collect();
        Ok(Unit { name, layer: layer.clone(), shape, isa, weight, gamma, raw, mean, inv_std, scale, shift })
    }

    /// Computes the result that was given up again.
    pub(crate) fn recompute(&mut self, operand: Operand<D>) {
        if self.raw.is_empty() {
            self.raw = timed(self.name, "forward again", || {
                D::conv_forward(self.isa, &self.shape, operand, &self.weight, BlockSink::Output).0
            });
        }
    }

    /// (N, C, H, W) of the result.
    pub(crate) fn output(&self) -> Shape {
        let ConvShape { batch, out_channels, out_h, out_w, .. } = self.shape;
        (batch, out_channels, out_h, out_w).into()
    }

    /// The normalised result before ReLU.
    pub(crate) fn line(&self) -> Affine<'_, D> {
        Affine { x: &self.raw, scale: &self.scale, shift: &self.shift }
    }

    /// The activation, as the next convolution reads it.
    pub(crate) fn activation(&self) -> Operand<'_, D> {
        Operand::Normalised { x: &self.raw, scale: &self.scale, shift: &self.shift }
    }

    /// Result and mean, as batch norm's sums need them.
    pub(crate) fn centred(&self) -> (&[D], &[f64]) {
        (&self.raw, &self.mean)
    }

    /// What turns the gradient of this unit's activation into that of the sum inside its ReLU.
    pub(crate) fn gate(&self) -> Gate<'_, D> {
        Gate { x: &self.raw, scale: &self.scale, shift: &self.shift, mean: &self.mean }
    }

    /// The coefficients that make `a·g + b·raw + d` the gradient of `raw`, from batch norm's sums.
    fn coefficients(&self, [sum_g, sum_gx]: &[Vec<f64>; 2]) -> [Vec<D::Compute>; 3] {
        let count = (self.shape.output_len() / self.shape.out_channels) as f64;
        let of = |k: usize| {
            let a = self.gamma[k] * self.inv_std[k];
            let b = -a * self.inv_std[k] * self.inv_std[k] * sum_gx[k] / count;
            [a, b, -a * sum_g[k] / count - b * self.mean[k]]
        };
        [0, 1, 2].map(|i| (0..self.gamma.len()).map(|k| D::Compute::of_f64(of(k)[i])).collect())
    }

    /// From the gradient `g` behind batch norm, and its sums: the gradients of weight, scale and shift go to
    /// `gradients`; the input's, if `sink` is given, is returned with what that has taken from it.
    pub(crate) fn backward(
        &self,
        operand: Operand<D>,
        g: &[D],
        sums: &[Vec<f64>; 2],
        gradients: &mut UnitGradients,
        sink: Option<BlockSink<D>>,
    ) -> Result<(Vec<D>, BlockTotals)> {
        let (isa, shape) = (self.isa, &self.shape);
        let [a, b, d] = &self.coefficients(sums);
        let gradient = Operand::Gradient { g, x: &self.raw, a, b, d };
        let (input, totals, weight) = match sink {
            Some(sink) => timed(self.name, "gradients", || {
                D::conv_gradients(isa, shape, operand, gradient, &self.weight, sink)
            }),
            None => timed(self.name, "weight gradient", || {
                (Vec::new(), BlockTotals::default(), D::conv_weight_gradient(isa, shape, operand, gradient))
            }),
        };
        self.own_gradients(weight, sums, gradients)?;
        Ok((input, totals))
    }

    /// As [`Self::backward`], of a 1×1 convolution: the input's gradient only where the stride reads it.
    pub(crate) fn pixel_gradient(
        &self,
        operand: Operand<D>,
        g: &[D],
        sums: &[Vec<f64>; 2],
        gradients: &mut UnitGradients,
    ) -> Result<Vec<D>> {
        let [a, b, d] = &self.coefficients(sums);
        let gradient = Operand::Gradient { g, x: &self.raw, a, b, d };
        let both = timed(self.name, "gradients", || {
            D::conv_pixel_gradients(self.isa, &self.shape, operand, gradient, &self.weight)
        });
        let Some((pixels, weight)) = both else { unreachable!("Bottleneck::takes: a projection is 1×1") };
        self.own_gradients(weight, sums, gradients)?;
        Ok(pixels)
    }

    fn own_gradients(
        &self,
        weight: Vec<D::Compute>,
        sums: &[Vec<f64>; 2],
        gradients: &mut UnitGradients,
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

/// Whether fused operations take `x`, layers that read it in such a block, and as many channels besides.
pub(crate) fn fused<'a>(
    x: &Tensor,
    layers: impl Iterator<Item = &'a ConvNorm> + Clone,
    channels: Option<usize>,
) -> bool {
    let isa = Isa::current();
    // Parameters are of the type that is computed in.
    let (lanes, parameters) = match x.dtype() {
        DType::F64 => (lanes::<f64>(isa), DType::F64),
        _ => (lanes::<f32>(isa), DType::F32),
    };
    let outputs = layers.clone().flat_map(|layer| layer.weight.dims().first().copied());
    recording()
        && x.rank() == 4
        && has_cpu_kernel(x)
        && outputs.chain(channels).all(|c| c.is_multiple_of(lanes))
        && layers.map(|layer| &layer.weight).all(|weight| weight.dtype() == parameters)
}
