//! A baseline in training.

use super::baseline::Baseline;
use super::node::{ConvNode, Node};
use crate::error::{Error, Result};
use crate::folded::FoldedConv;
use crate::layers::BatchNorm;
use crate::mode::Mode;
use candle_core::{DType, Tensor};
use candle_nn::{Init, VarBuilder};
use resnext_ops::{
    AvgPool2dConfig, Conv2dConfig, Pool2dConfig, adaptive_avg_pool2d, add, add_relu, avg_pool2d,
    cat_channels, conv2d, conv2d_with_bias, global_avg_pool, linear, max_pool2d, pad2d, relu, reshape,
    scale_images, to_channels_last,
};

/// A baseline, from images (N, 3, H, W) to logits (N, classes).
///
/// It is trained without dropout and, in Inception-v3, without the auxiliary classifier. For inference on a CPU,
/// [`FusedBaseline`](super::FusedBaseline) is faster.
#[derive(Debug)]
pub struct BaselineNetwork {
    layers: Layer,
    /// Weight (classes, features) and bias (classes).
    head: (Tensor, Tensor),
}

impl BaselineNetwork {
    /// Builds the network from the weights under `vb`, as [`ResNext::new`](crate::ResNext::new) does.
    ///
    /// # Errors
    /// If a weight is missing or of the wrong shape.
    pub fn new(baseline: Baseline, classes: usize, vb: VarBuilder) -> Result<Self> {
        let layers = Layer::new(&baseline.layers(), baseline.eps(), &vb)?;
        Ok(BaselineNetwork { layers, head: head(baseline, classes, &vb)? })
    }

    /// Returns the logits (N, classes) of images `x` (N, 3, H, W), of the weights' type. With `train`, batch norm
    /// uses the statistics of this batch and updates its running ones.
    ///
    /// # Errors
    /// If `x` is not (N, 3, H, W), not of the weights' type, or too small for the network's pools.
    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match x.dims() {
            &[_, 3, h, w] if h > 0 && w > 0 => {}
            _ => return Err(Error::Input(x.shape().clone())),
        }
        let mode = if train { Mode::Train } else { Mode::Eval };
        let features = global_avg_pool(&self.layers.forward(&to_channels_last(x)?, mode)?)?;
        Ok(linear(&features, &self.head.0, Some(&self.head.1))?)
    }
}

/// The last layer: weight (classes, features) and bias (classes).
pub(super) fn head(baseline: Baseline, classes: usize, vb: &VarBuilder) -> Result<(Tensor, Tensor)> {
    let (name, features) = baseline.head();
    let bound = 1.0 / (features as f64).sqrt();
    let init = Init::Uniform { lo: -bound, up: bound };
    let vb = vb.pp(name);
    Ok((vb.get_with_hints((classes, features), "weight", init)?, vb.get_with_hints(classes, "bias", init)?))
}

/// A [`Node`] with its weights.
#[derive(Debug)]
pub(super) enum Layer {
    Conv(ConvLayer),
    MaxPool(Pool2dConfig),
    AvgPool(AvgPool2dConfig),
    AdaptiveAvgPool(usize),
    Sequence(Vec<Layer>),
    Branches(Vec<Layer>),
    Residual { branch: Box<Layer>, conv: ConvLayer, scale: f64, relu: bool },
}

impl Layer {
    pub(super) fn new(node: &Node, eps: f64, vb: &VarBuilder) -> Result<Self> {
        let all =
            |nodes: &[Node]| nodes.iter().map(|node| Layer::new(node, eps, vb)).collect::<Result<Vec<_>>>();
        Ok(match node {
            Node::Conv(conv) => Layer::Conv(ConvLayer::new(conv, eps, vb)?),
            Node::MaxPool(config) => Layer::MaxPool(*config),
            Node::AvgPool(config) => Layer::AvgPool(*config),
            Node::AdaptiveAvgPool(cells) => Layer::AdaptiveAvgPool(*cells),
            Node::Sequence(nodes) => Layer::Sequence(all(nodes)?),
            Node::Branches(nodes) => Layer::Branches(all(nodes)?),
            Node::Residual { branch, conv, scale, relu } => Layer::Residual {
                branch: Box::new(Layer::new(branch, eps, vb)?),
                conv: ConvLayer::new(conv, eps, vb)?,
                scale: *scale,
                relu: *relu,
            },
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(match self {
            Layer::Conv(conv) => conv.forward(x, mode)?,
            Layer::MaxPool(config) => max_pool2d(x, config)?,
            Layer::AvgPool(config) => avg_pool2d(x, config)?,
            Layer::AdaptiveAvgPool(cells) => adaptive_avg_pool2d(x, *cells)?,
            Layer::Sequence(layers) => {
                layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x, mode))?
            }
            Layer::Branches(layers) => {
                let outputs = layers.iter().map(|layer| layer.forward(x, mode));
                cat_channels(&outputs.collect::<Result<Vec<_>>>()?)?
            }
            Layer::Residual { branch, conv, scale, relu } => {
                let y = conv.forward(&branch.forward(x, mode)?, mode)?;
                let factors = Tensor::full(*scale, y.dim(0)?, y.device())?.to_dtype(y.dtype())?;
                let y = scale_images(&y, &factors)?;
                if *relu { add_relu(&y, x)? } else { add(&y, x)? }
            }
        })
    }
}

/// A convolution with its weights, and the batch norm after it.
#[derive(Debug)]
pub(super) struct ConvLayer {
    pub(super) node: ConvNode,
    weight: Tensor,
    bias: Option<Tensor>,
    norm: Option<BatchNorm>,
}

impl ConvLayer {
    /// Weights start with He's normal initialisation by fan-out, and biases at 0.
    pub(super) fn new(node: &ConvNode, eps: f64, vb: &VarBuilder) -> Result<Self> {
        let ConvNode { input, output, kernel: (h, w), .. } = *node;
        let init = Init::Randn { mean: 0.0, stdev: (2.0 / (h * w * output) as f64).sqrt() };
        let own = vb.pp(&node.name);
        let weight = match node.linear {
            true => own.get_with_hints((output, input * h * w), "weight", init)?,
            false => own.get_with_hints((output, input, h, w), "weight", init)?,
        };
        let bias = match node.bias {
            true => Some(own.get_with_hints(output, "bias", Init::Const(0.0))?),
            false => None,
        };
        let norm = node.norm.as_ref().map(|norm| BatchNorm::new(output, 1.0, vb.pp(norm)));
        let norm = norm.transpose()?.map(|norm| norm.with_eps(eps));
        Ok(ConvLayer { node: node.clone(), weight, bias, norm })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let ConvNode { input, output, kernel: (h, w), padding: (rows, columns), .. } = self.node;
        let weight = match self.node.linear {
            true => reshape(&self.weight, (output, input, h, w))?,
            false => self.weight.clone(),
        };
        let config = self.config();
        let padded = if rows == columns { x.clone() } else { pad2d(x, rows, columns)? };
        let y = match &self.bias {
            None => conv2d(&padded, &weight, &config)?,
            Some(bias) => conv2d_with_bias(&padded, &weight, bias, &config)?,
        };
        match (&self.norm, self.node.relu) {
            (Some(norm), true) => norm.forward_relu(&y, mode),
            (Some(norm), false) => norm.forward(&y, mode),
            (None, true) => Ok(relu(&y)?),
            (None, false) => Ok(y),
        }
    }

    /// The settings of the convolution, which pads only by as much along both axes.
    fn config(&self) -> Conv2dConfig {
        let ConvNode { stride, padding: (rows, columns), .. } = self.node;
        Conv2dConfig { stride, padding: if rows == columns { rows } else { 0 }, ..Default::default() }
    }

    /// The convolution times `scale`, with the batch norm after it folded in.
    pub(super) fn fold(&self, scale: f64) -> Result<FoldedConv> {
        let ConvNode { input, output, kernel: (h, w), .. } = self.node;
        let dtype = self.weight.dtype();
        let zeros = || Tensor::zeros(output, DType::F64, self.weight.device());
        let bias = match &self.bias {
            Some(bias) => bias.detach().to_dtype(DType::F64)?,
            None => zeros()?,
        };
        let (factors, shift) = match &self.norm {
            Some(norm) => norm.scale_shift()?,
            None => ((zeros()? + 1.0)?, zeros()?),
        };
        let factors = (factors * scale)?;
        let bias = ((bias * &factors)? + (shift * scale)?)?;
        let weight = self.weight.detach().reshape((output, input, h, w))?;
        let weight = weight.broadcast_mul(&factors.to_dtype(dtype)?.reshape(((), 1, 1, 1))?)?;
        Ok(FoldedConv::new(weight, bias.to_dtype(dtype)?, self.config()))
    }
}
