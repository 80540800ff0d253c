//! A baseline as an ONNX graph.

use super::graph::{Graph, int, ints};
use super::tensors::Export;
use crate::architecture::Architecture;
use crate::baselines::Baseline;
use crate::baselines::node::{ConvNode, Node};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// Height and width of the images that an exported VGG takes; `None` for networks that take any.
///
/// # Errors
/// If the file's description says that images have another size.
pub(super) fn side(export: &Export) -> Result<Option<usize>> {
    let Architecture::Baseline { baseline: baseline @ (Baseline::Vgg16 | Baseline::Vgg19), .. } =
        export.network()
    else {
        return Ok(None);
    };
    let side = baseline.size();
    match export.description().map_or((side, side), |description| description.preprocessing.size) {
        (h, w) if (h, w) == (side, side) => Ok(Some(side)),
        (h, w) => Err(Error::Config(format!(
            "expected images of {side}×{side} for {} in ONNX, which has no adaptive average pool, got {h}×{w}",
            baseline.name()
        ))),
    }
}

/// Adds all layers of a baseline.
pub(super) fn add_baseline(graph: &mut Graph, baseline: Baseline) -> Result<()> {
    let mut writer = Writer { graph, eps: baseline.eps(), unnamed: 0 };
    let x = writer.add(&baseline.layers(), "images")?;
    graph.classifier(&x, baseline.head().0)
}

struct Writer<'a, 'b> {
    graph: &'a mut Graph<'b>,
    /// The constant that batch norms add to the variance.
    eps: f64,
    /// The number of layers without a name of their own so far.
    unnamed: usize,
}

impl Writer<'_, '_> {
    /// Adds `node`, which reads `x`, and returns the name of its output.
    fn add(&mut self, node: &Node, x: &str) -> Result<String> {
        Ok(match node {
            Node::Conv(conv) => self.conv(conv, x)?,
            Node::MaxPool(pool) => {
                let name = self.name("maxpool");
                self.graph.max_pool(x, &name, *pool)
            }
            Node::AvgPool(pool) => {
                let name = self.name("avgpool");
                self.graph.average(x, &name, *pool)
            }
            // Every cell is one pixel: `side` sees to that.
            Node::AdaptiveAvgPool(_) => x.to_string(),
            Node::Sequence(nodes) => nodes.iter().try_fold(x.to_string(), |x, node| self.add(node, &x))?,
            Node::Branches(nodes) => {
                let outputs = nodes.iter().map(|node| self.add(node, x)).collect::<Result<Vec<_>>>()?;
                let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
                let name = self.name("concat");
                self.graph.node("Concat", &outputs, &name, &[int("axis", 1)])
            }
            Node::Residual { branch, conv, scale, relu } => {
                let y = self.add(branch, x)?;
                let y = self.conv(conv, &y)?;
                let factor = Tensor::new(*scale as f32, &Device::Cpu)?;
                let factor = self.graph.initializer(&format!("{}.scale", conv.name), &factor, DType::F32)?;
                let scaled = self.graph.node("Mul", &[&y, &factor], &format!("{}.scaled", conv.name), &[]);
                let sum = self.graph.node("Add", &[&scaled, x], &format!("{}.add", conv.name), &[]);
                if *relu { self.graph.relu(&sum) } else { sum }
            }
        })
    }

    /// Adds a convolution with the batch norm and ReLU after it.
    fn conv(&mut self, conv: &ConvNode, x: &str) -> Result<String> {
        let ConvNode { name, norm, bias, relu, input, output, kernel: (h, w), stride, padding, .. } = conv;
        let weight_name = format!("{name}.weight");
        // Linear layers over a map are written as the convolutions that they are.
        let weight = self.graph.export.tensor(&weight_name)?.reshape((*output, *input, *h, *w))?;
        let mut inputs = vec![x.to_string(), self.graph.stored(&weight_name, &weight)?];
        if *bias {
            inputs.push(self.graph.parameter(&format!("{name}.bias"))?);
        }
        let (rows, columns) = (padding.0 as i64, padding.1 as i64);
        let attributes = [
            ints("kernel_shape", &[*h as i64, *w as i64]),
            ints("strides", &[*stride as i64; 2]),
            ints("pads", &[rows, columns, rows, columns]),
        ];
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let mut y = self.graph.node("Conv", &inputs, name, &attributes);
        if let Some(norm) = norm {
            y = self.graph.norm(&y, norm, self.eps)?;
        }
        Ok(if *relu { self.graph.relu(&y) } else { y })
    }

    /// A name for a layer that has no weights.
    fn name(&mut self, kind: &str) -> String {
        self.unnamed += 1;
        format!("{kind}.{}", self.unnamed)
    }
}
