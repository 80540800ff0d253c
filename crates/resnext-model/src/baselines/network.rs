//! A baseline in training.

use super::baseline::Baseline;
use super::node::{ConvNode, Node};
use crate::error::{Error, Result};
use crate::folded::FoldedConv;
use crate::layers::BatchNorm;
use crate::mode::{Mode, check_mixed_precision};
use candle_core::{DType, Tensor};
use candle_nn::{Init, VarBuilder};
use resnext_ops::{
    AvgPool2dConfig, Conv2dConfig, Pool2dConfig, adaptive_avg_pool2d, add, add_relu, avg_pool2d, cast,
    cat_channels, conv2d, conv2d_with_bias, global_avg_pool, linear, max_pool2d, pad2d, relu, reshape,
    scale_images, to_channels_last,
};

/// A baseline, from images (N, 3, H, W) to logits (N, classes).
///
/// It is trained without dropout and, in Inception-v3, without the auxiliary classifier. For inference on a CPU,
/// [`FusedBaseline`](super::FusedBaseline) is faster.
#[derive(Debug)]
pub struct BaselineNetwork {
    pub(super) baseline: Baseline,
    pub(super) layers: Layer,
    /// Weight (classes, features) and bias (classes).
    pub(super) head: (Tensor, Tensor),
    /// The type of feature maps in training, if it is not that of the weights.
    half: Option<DType>,
}

impl BaselineNetwork {
    /// Builds the network from the weights under `vb`, as [`ResNext::new`](crate::ResNext::new) does.
    ///
    /// # Errors
    /// If a weight is missing or of the wrong shape.
    pub fn new(baseline: Baseline, classes: usize, vb: VarBuilder) -> Result<Self> {
        let layers = Layer::new(&baseline.layers(), baseline.eps(), &vb)?;
        Ok(BaselineNetwork { baseline, layers, head: head(baseline, classes, &vb)?, half: None })
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
        let x = to_channels_last(x)?;
        let x = match self.half {
            Some(half) if train => cast(&x, half)?,
            _ => x,
        };
        let (weight, bias) = &self.head;
        let features = cast(&global_avg_pool(&self.layers.forward(&x, mode)?)?, weight.dtype())?;
        Ok(linear(&features, weight, Some(bias))?)
    }

    /// Mixed precision, as [`ResNext::set_mixed_precision`](crate::ResNext::set_mixed_precision) says.
    ///
    /// # Errors
    /// If the weights are not f32, or `dtype` is neither BF16 nor F16.
    pub fn set_mixed_precision(&mut self, dtype: Option<DType>) -> Result<()> {
        check_mixed_precision(dtype, self.head.0.dtype())?;
        self.half = dtype;
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variables::Variables;
    use candle_core::Device;
    use resnext_ops::{cross_entropy, value_and_gradients};

    const CLASSES: usize = 5;

    /// The same layers with a 16th of the channels, so that a step takes moments.
    fn narrow(node: Node) -> Node {
        let all = |nodes: Vec<Node>| nodes.into_iter().map(narrow).collect();
        let conv = |conv: ConvNode| ConvNode {
            input: if conv.input == 3 { 3 } else { conv.input / 16 },
            output: conv.output / 16,
            ..conv
        };
        match node {
            Node::Conv(own) => Node::Conv(conv(own)),
            Node::Sequence(nodes) => Node::Sequence(all(nodes)),
            Node::Branches(nodes) => Node::Branches(all(nodes)),
            Node::Residual { branch, conv: own, scale, relu } => {
                Node::Residual { branch: Box::new(narrow(*branch)), conv: conv(own), scale, relu }
            }
            pool => pool,
        }
    }

    fn network(baseline: Baseline, variables: &Variables) -> BaselineNetwork {
        let vb = variables.builder();
        let layers = Layer::new(&narrow(baseline.layers()), baseline.eps(), &vb).unwrap();
        let init = Init::Randn { mean: 0.0, stdev: 0.1 };
        let weight = vb.get_with_hints((CLASSES, baseline.head().1 / 16), "head.weight", init).unwrap();
        let bias = vb.get_with_hints(CLASSES, "head.bias", init).unwrap();
        BaselineNetwork { baseline, layers, head: (weight, bias), half: None }
    }

    /// Two images that no feature map shrinks to a single pixel of, and their labels.
    fn batch(baseline: Baseline, dtype: DType) -> (Tensor, Tensor) {
        let side = if baseline.size() == 299 { 107 } else { 32 };
        let value = |i: u64| ((i * 2654435761) % (1 << 32)) as f64 / (1u64 << 31) as f64 - 1.0;
        let values: Vec<f64> = (0..2 * 3 * side as u64 * side as u64).map(value).collect();
        let images = Tensor::from_vec(values, (2, 3, side, side), &Device::Cpu).unwrap();
        (images.to_dtype(dtype).unwrap(), Tensor::new(&[1u32, 4], &Device::Cpu).unwrap())
    }

    fn values(t: &Tensor) -> Vec<f64> {
        t.to_dtype(DType::F64).unwrap().contiguous().unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Gradients on the tape are those of candle's graph, and reach every variable.
    #[test]
    fn gradients_are_those_of_candles_graph() {
        for baseline in Baseline::ALL {
            let variables = Variables::new(7, DType::F64, &Device::Cpu);
            let network = network(baseline, &variables);
            let (x, labels) = batch(baseline, DType::F64);
            let loss = || cross_entropy(&network.forward(&x, true).unwrap(), &labels, 0.1);
            let (taped, gradients) = value_and_gradients(loss).unwrap();
            let graph = loss().unwrap();
            assert!((values(&taped)[0] - values(&graph)[0]).abs() < 1e-12);
            let expected = graph.backward().unwrap();
            for (name, var) in variables.trainable() {
                let want = values(expected.get(&var).unwrap());
                let largest = want.iter().fold(1e-3f64, |most, v| most.max(v.abs()));
                assert!(want.iter().any(|v| *v != 0.0), "{}: {name} is zero", baseline.name());
                for (got, want) in values(gradients.get(&var).unwrap()).iter().zip(&want) {
                    assert!((got - want).abs() < 1e-9 * largest, "{} {name}: {got} {want}", baseline.name());
                }
            }
        }
    }

    /// After steps of training, the inference form has the logits of the network that it was made from; and in mixed
    /// precision, losses are near those of f32.
    #[test]
    fn a_trained_baseline_is_fused_and_trains_in_mixed_precision() {
        for baseline in Baseline::ALL {
            let run = |half: Option<DType>| {
                let variables = Variables::new(7, DType::F32, &Device::Cpu);
                let mut network = network(baseline, &variables);
                network.set_mixed_precision(half).unwrap();
                let (x, labels) = batch(baseline, DType::F32);
                let loss = || cross_entropy(&network.forward(&x, true).unwrap(), &labels, 0.0);
                let mut losses = Vec::new();
                for _ in 0..2 {
                    let (loss, gradients) = value_and_gradients(loss).unwrap();
                    losses.push(values(&loss)[0]);
                    for (_, var) in variables.trainable() {
                        let gradient = gradients.get(&var).unwrap();
                        var.set(&(var.as_detached_tensor() - (gradient * 0.001).unwrap()).unwrap()).unwrap();
                    }
                }
                let want = values(&network.forward(&x, false).unwrap());
                let got = values(&network.fuse().unwrap().forward(&x).unwrap());
                let largest = want.iter().fold(0f64, |most, v| most.max(v.abs()));
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() < 1e-4 * largest, "{}: {got} {want}", baseline.name());
                }
                losses
            };
            let (wide, half) = (run(None), run(Some(DType::BF16)));
            assert!(
                wide != half && (wide[0] / half[0] - 1.0).abs() < 0.1,
                "{wide:?} in f32, {half:?} in bf16"
            );
        }
        let mut network = network(Baseline::Vgg16, &Variables::new(7, DType::F64, &Device::Cpu));
        let error = network.set_mixed_precision(Some(DType::BF16)).unwrap_err().to_string();
        assert!(error.contains("BF16 or F16 beside F32 weights"), "{error}");
    }
}
