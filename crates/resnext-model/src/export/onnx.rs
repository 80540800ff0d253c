//! The network as an ONNX graph.

use super::protobuf::Message;
use super::tensors::{Export, narrowed};
use crate::config::{ConvSize, Shortcut, Stem};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use resnext_ops::BatchNormConfig;

/// The version of ONNX's operators the graph is written in.
pub const OPSET: i64 = 17;
/// Of the file format, which that opset came with.
const IR_VERSION: i64 = 8;
/// What Protocol Buffers can hold in one message.
const SIZE_LIMIT: usize = (1 << 31) - 1;

/// Numbers of ONNX's element types.
const FLOAT: i64 = 1;
const FLOAT16: i64 = 10;
const BFLOAT16: i64 = 16;

impl Export {
    /// An ONNX file of the network: `images` (batch, 3, height, width), f32, any of the three, to `logits`
    /// (batch, classes), f32. Convolutions and the last layer keep their weights in `dtype` (F32, F16 or BF16) and
    /// compute in f32, since few runtimes have kernels of another type on a CPU; batch norm stays apart and in f32, so
    /// that the file can be trained on.
    ///
    /// # Errors
    /// If a weight is beyond the range of `dtype`, or the file would be above the format's 2 GiB.
    pub fn onnx(&self, name: &str, dtype: DType) -> Result<Vec<u8>> {
        let mut graph = Graph { export: self, dtype, message: Message::default() };
        let config = self.config();
        let mut x = graph.conv_norm("images", "conv1", "bn1", config.entrance())?;
        x = graph.relu(&x);
        if config.stem == Stem::ImageNet {
            let attributes = [ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2]), ints("pads", &[1; 4])];
            x = graph.node("MaxPool", &[&x], "maxpool", &attributes);
        }
        for (s, stage) in config.blocks().iter().enumerate() {
            for (i, size) in stage.iter().enumerate() {
                let of = |part: &str| format!("layer{}.{i}.{part}", s + 1);
                let input = x.clone();
                for (j, conv) in size.convs().into_iter().enumerate() {
                    if j > 0 {
                        x = graph.relu(&x);
                    }
                    let (name, norm) = (of(&format!("conv{}", j + 1)), of(&format!("bn{}", j + 1)));
                    x = graph.conv_norm(&x, &name, &norm, conv)?;
                }
                let shortcut = match (size.changes_shape(), config.shortcut) {
                    (false, _) => input,
                    (true, Shortcut::Projection) => {
                        let (conv, norm) = (of("downsample.0"), of("downsample.1"));
                        graph.conv_norm(&input, &conv, &norm, size.projection())?
                    }
                    (true, Shortcut::Identity) => {
                        let copies = |i: usize| if i / size.input == i % size.input { 1f32 } else { 0.0 };
                        let matrix: Vec<f32> = (0..size.output * size.input).map(copies).collect();
                        let matrix = Tensor::from_vec(matrix, (size.output, size.input, 1, 1), &Device::Cpu)?;
                        let weight = graph.initializer(&of("shortcut"), &matrix, DType::F32)?;
                        graph.conv(&input, &weight, &of("downsample"), size.projection())
                    }
                };
                x = graph.node("Add", &[&x, &shortcut], &of("add"), &[]);
                x = graph.relu(&x);
            }
        }
        x = graph.node("GlobalAveragePool", &[&x], "avgpool", &[]);
        x = graph.node("Flatten", &[&x], "flatten", &[]);
        let (weight, bias) = (graph.weight("fc.weight")?, graph.parameter("fc.bias")?);
        graph.node("Gemm", &[&x, &weight, &bias], "logits", &[int("transB", 1)]);
        graph.finish(name, config.classes)
    }
}

/// A graph being written: `GraphProto`.
struct Graph<'a> {
    export: &'a Export,
    dtype: DType,
    message: Message,
}

fn attribute(name: &str, kind: i64) -> Message {
    Message::default().text(1, name).integer(20, kind)
}

fn int(name: &str, value: i64) -> Message {
    attribute(name, 2).integer(3, value)
}

fn ints(name: &str, values: &[i64]) -> Message {
    values.iter().fold(attribute(name, 7), |message, &value| message.integer(8, value))
}

/// A tensor's name, type and shape: `ValueInfoProto`.
fn value_info(name: &str, dims: &[Message]) -> Message {
    let shape = dims.iter().fold(Message::default(), |shape, dim| shape.message(1, dim));
    let tensor = Message::default().integer(1, FLOAT).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}

impl Graph<'_> {
    /// Adds an operation, whose one output is named like itself.
    fn node(&mut self, op: &str, inputs: &[&str], name: &str, attributes: &[Message]) -> String {
        let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
        let node = node.text(2, name).text(3, name).text(4, op);
        let node = attributes.iter().fold(node, |node, attribute| node.message(5, attribute));
        self.message = std::mem::take(&mut self.message).message(1, &node);
        name.to_string()
    }

    fn initializer(&mut self, name: &str, tensor: &Tensor, dtype: DType) -> Result<String> {
        let (kind, bytes) = match dtype {
            DType::F16 => (FLOAT16, bytes_of::<half::f16, 2>(name, tensor, dtype, half::f16::to_le_bytes)?),
            DType::BF16 => {
                (BFLOAT16, bytes_of::<half::bf16, 2>(name, tensor, dtype, half::bf16::to_le_bytes)?)
            }
            _ => (FLOAT, bytes_of::<f32, 4>(name, tensor, dtype, f32::to_le_bytes)?),
        };
        if self.message.0.len() + bytes.len() > SIZE_LIMIT - (1 << 20) {
            return Err(Error::Config("the network is above the 2 GiB an ONNX file can have".into()));
        }
        let dims = tensor.dims().iter().fold(Message::default(), |m, &dim| m.integer(1, dim as i64));
        let message = dims.integer(2, kind).text(8, name).bytes(9, &bytes);
        self.message = std::mem::take(&mut self.message).message(5, &message);
        Ok(name.to_string())
    }

    /// A weight in the file's type, as f32.
    fn weight(&mut self, name: &str) -> Result<String> {
        let stored = self.initializer(name, self.export.tensor(name)?, self.dtype)?;
        Ok(match self.dtype {
            DType::F32 => stored,
            _ => self.node("Cast", &[&stored], &format!("{name}.f32"), &[int("to", FLOAT)]),
        })
    }

    /// A parameter that stays in f32.
    fn parameter(&mut self, name: &str) -> Result<String> {
        self.initializer(name, self.export.tensor(name)?, DType::F32)
    }

    fn conv(&mut self, x: &str, weight: &str, name: &str, size: ConvSize) -> String {
        let [kernel, stride, groups] = [size.kernel, size.stride, size.groups].map(|n| n as i64);
        let attributes = [
            ints("kernel_shape", &[kernel; 2]),
            ints("strides", &[stride; 2]),
            ints("pads", &[kernel / 2; 4]),
            int("group", groups),
        ];
        self.node("Conv", &[x, weight], name, &attributes)
    }

    fn conv_norm(&mut self, x: &str, conv: &str, norm: &str, size: ConvSize) -> Result<String> {
        let weight = self.weight(&format!("{conv}.weight"))?;
        let x = self.conv(x, &weight, conv, size);
        let mut inputs = vec![x];
        for part in ["weight", "bias", "running_mean", "running_var"] {
            inputs.push(self.parameter(&format!("{norm}.{part}"))?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let epsilon = attribute("epsilon", 1).float(2, BatchNormConfig::default().eps as f32);
        Ok(self.node("BatchNormalization", &inputs, norm, &[epsilon]))
    }

    fn relu(&mut self, x: &str) -> String {
        self.node("Relu", &[x], &format!("{x}.relu"), &[])
    }

    fn finish(self, name: &str, classes: usize) -> Result<Vec<u8>> {
        let any = |name: &str| Message::default().text(2, name);
        let fixed = |value: usize| Message::default().integer(1, value as i64);
        let input = value_info("images", &[any("batch"), fixed(3), any("height"), any("width")]);
        let output = value_info("logits", &[any("batch"), fixed(classes)]);
        let graph = self.message.text(2, name).message(11, &input).message(12, &output);
        let opset = Message::default().text(1, "").integer(2, OPSET);
        let model = Message::default()
            .integer(1, IR_VERSION)
            .text(2, env!("CARGO_PKG_NAME"))
            .text(3, env!("CARGO_PKG_VERSION"))
            .message(7, &graph)
            .message(8, &opset);
        Ok(model.0)
    }
}

fn bytes_of<T: candle_core::WithDType, const N: usize>(
    name: &str,
    tensor: &Tensor,
    dtype: DType,
    to_bytes: fn(T) -> [u8; N],
) -> Result<Vec<u8>> {
    let values = narrowed(name, tensor, dtype)?.flatten_all()?.to_vec1::<T>()?;
    Ok(values.into_iter().flat_map(to_bytes).collect())
}
