//! An ONNX graph that is being written: tensors, and the operations that every network has.

use super::protobuf::Message;
use super::tensors::{Export, narrowed};
use crate::description::Description;
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use resnext_ops::{AvgPool2dConfig, Pool2dConfig};

/// The version of the ONNX operator set that exported graphs use.
pub const OPSET: i64 = 17;
/// The version of the file format, which came with that operator set.
const IR_VERSION: i64 = 8;
/// The most bytes in one message of Protocol Buffers.
const SIZE_LIMIT: usize = (1 << 31) - 1;

// ONNX's element types, `TensorProto.DataType`.
const FLOAT: i64 = 1;
const FLOAT16: i64 = 10;
const BFLOAT16: i64 = 16;

/// A graph that is being written, ONNX's `GraphProto`.
pub(super) struct Graph<'a> {
    pub(super) export: &'a Export,
    /// The type in which weights are stored.
    dtype: DType,
    message: Message,
}

pub(super) fn attribute(name: &str, kind: i64) -> Message {
    Message::default().text(1, name).integer(20, kind)
}

pub(super) fn int(name: &str, value: i64) -> Message {
    attribute(name, 2).integer(3, value)
}

pub(super) fn ints(name: &str, values: &[i64]) -> Message {
    values.iter().fold(attribute(name, 7), |message, &value| message.integer(8, value))
}

/// Name, type and shape of an input or output, ONNX's `ValueInfoProto`.
fn value_info(name: &str, dims: &[Message]) -> Message {
    let shape = dims.iter().fold(Message::default(), |shape, dim| shape.message(1, dim));
    let tensor = Message::default().integer(1, FLOAT).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}

impl<'a> Graph<'a> {
    pub(super) fn new(export: &'a Export, dtype: DType) -> Self {
        Graph { export, dtype, message: Message::default() }
    }

    /// Adds a max-pool. Like all methods that add a node, it returns the name of the output.
    pub(super) fn max_pool(&mut self, x: &str, name: &str, pool: Pool2dConfig) -> String {
        let Pool2dConfig { kernel, stride, padding } = pool;
        let [kernel, stride, padding] = [kernel, stride, padding].map(|n| n as i64);
        let attributes =
            [ints("kernel_shape", &[kernel; 2]), ints("strides", &[stride; 2]), ints("pads", &[padding; 4])];
        self.node("MaxPool", &[x], name, &attributes)
    }

    pub(super) fn average(&mut self, x: &str, name: &str, pool: AvgPool2dConfig) -> String {
        let AvgPool2dConfig { kernel, stride, padding, ceil, count_padding } = pool;
        let [kernel, stride, padding] = [kernel, stride, padding].map(|n| n as i64);
        let attributes = [
            ints("kernel_shape", &[kernel; 2]),
            ints("strides", &[stride; 2]),
            ints("pads", &[padding; 4]),
            int("ceil_mode", ceil.into()),
            int("count_include_pad", count_padding.into()),
        ];
        self.node("AveragePool", &[x], name, &attributes)
    }

    /// Adds a list of integers.
    pub(super) fn integers(&mut self, name: &str, values: &[i64]) -> String {
        const INT64: i64 = 7;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dims = Message::default().integer(1, values.len() as i64);
        let message = dims.integer(2, INT64).text(8, name).bytes(9, &bytes);
        self.message = std::mem::take(&mut self.message).message(5, &message);
        name.to_string()
    }

    /// Adds an operation with one output, to which it gives its own name.
    pub(super) fn node(&mut self, op: &str, inputs: &[&str], name: &str, attributes: &[Message]) -> String {
        let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
        let node = node.text(2, name).text(3, name).text(4, op);
        let node = attributes.iter().fold(node, |node, attribute| node.message(5, attribute));
        self.message = std::mem::take(&mut self.message).message(1, &node);
        name.to_string()
    }

    /// Adds a tensor, stored as `dtype`.
    pub(super) fn initializer(&mut self, name: &str, tensor: &Tensor, dtype: DType) -> Result<String> {
        let (kind, bytes) = match dtype {
            DType::F16 => (FLOAT16, bytes_of::<half::f16, 2>(name, tensor, dtype, half::f16::to_le_bytes)?),
            DType::BF16 => {
                (BFLOAT16, bytes_of::<half::bf16, 2>(name, tensor, dtype, half::bf16::to_le_bytes)?)
            }
            _ => (FLOAT, bytes_of::<f32, 4>(name, tensor, dtype, f32::to_le_bytes)?),
        };
        if self.message.0.len() + bytes.len() > SIZE_LIMIT - (1 << 20) {
            return Err(Error::Config("the network exceeds the 2 GiB of an ONNX file".into()));
        }
        let dims = tensor.dims().iter().fold(Message::default(), |m, &dim| m.integer(1, dim as i64));
        let message = dims.integer(2, kind).text(8, name).bytes(9, &bytes);
        self.message = std::mem::take(&mut self.message).message(5, &message);
        Ok(name.to_string())
    }

    /// Adds a weight, stored as the file's type and converted to f32.
    pub(super) fn weight(&mut self, name: &str) -> Result<String> {
        self.stored(name, self.export.tensor(name)?)
    }

    /// Stores a tensor like [`weight`](Self::weight), which may have another shape than in the network.
    pub(super) fn stored(&mut self, name: &str, tensor: &Tensor) -> Result<String> {
        let stored = self.initializer(name, tensor, self.dtype)?;
        Ok(match self.dtype {
            DType::F32 => stored,
            _ => self.node("Cast", &[&stored], &format!("{name}.f32"), &[int("to", FLOAT)]),
        })
    }

    /// Adds a parameter that is stored as f32.
    pub(super) fn parameter(&mut self, name: &str) -> Result<String> {
        self.initializer(name, self.export.tensor(name)?, DType::F32)
    }

    /// Adds the batch norm `name`, which adds `eps` to the variance.
    pub(super) fn norm(&mut self, x: &str, name: &str, eps: f64) -> Result<String> {
        let mut inputs = vec![x.to_string()];
        for part in ["weight", "bias", "running_mean", "running_var"] {
            inputs.push(self.parameter(&format!("{name}.{part}"))?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let epsilon = attribute("epsilon", 1).float(2, eps as f32);
        Ok(self.node("BatchNormalization", &inputs, name, &[epsilon]))
    }

    /// Adds the mean of each channel and the last, linear layer, `head`.
    pub(super) fn classifier(&mut self, x: &str, head: &str) -> Result<()> {
        let x = self.node("GlobalAveragePool", &[x], "avgpool", &[]);
        let x = self.node("Flatten", &[&x], "flatten", &[]);
        let (weight, bias) =
            (self.weight(&format!("{head}.weight"))?, self.parameter(&format!("{head}.bias"))?);
        self.node("Gemm", &[&x, &weight, &bias], "logits", &[int("transB", 1)]);
        Ok(())
    }

    pub(super) fn relu(&mut self, x: &str) -> String {
        self.node("Relu", &[x], &format!("{x}.relu"), &[])
    }

    /// The bytes of the whole file, ONNX's `ModelProto`. Images are of any height and width, or of `side`.
    pub(super) fn finish(self, name: &str, classes: usize, side: Option<usize>) -> Result<Vec<u8>> {
        let any = |name: &str| Message::default().text(2, name);
        let fixed = |value: usize| Message::default().integer(1, value as i64);
        let [height, width] = ["height", "width"].map(|axis| side.map_or(any(axis), fixed));
        let input = value_info("images", &[any("batch"), fixed(3), height, width]);
        let output = value_info("logits", &[any("batch"), fixed(classes)]);
        let graph = self.message.text(2, name).message(11, &input).message(12, &output);
        let opset = Message::default().text(1, "").integer(2, OPSET);
        let model = Message::default()
            .integer(1, IR_VERSION)
            .text(2, env!("CARGO_PKG_NAME"))
            .text(3, env!("CARGO_PKG_VERSION"))
            .message(7, &graph)
            .message(8, &opset);
        // `StringStringEntryProto` in `metadata_props`.
        let metadata = self.export.metadata().into_iter().filter(|(key, _)| key == Description::KEY);
        let model = metadata.fold(model, |model, (key, value)| {
            model.message(14, &Message::default().text(1, &key).text(2, &value))
        });
        Ok(model.0)
    }
}

/// The elements of a tensor as little-endian bytes of type `T`, which is `dtype`.
fn bytes_of<T: candle_core::WithDType, const N: usize>(
    name: &str,
    tensor: &Tensor,
    dtype: DType,
    to_bytes: fn(T) -> [u8; N],
) -> Result<Vec<u8>> {
    let values = narrowed(name, tensor, dtype)?.flatten_all()?.to_vec1::<T>()?;
    Ok(values.into_iter().flat_map(to_bytes).collect())
}
