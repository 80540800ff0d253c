//! A network as an ONNX graph.

use super::protobuf::Message;
use super::tensors::{Export, narrowed};
use crate::config::{BlockSize, Config, ConvSize, Shortcut};
use crate::description::Description;
use crate::error::{Error, Result};
use crate::layer_names;
use crate::pools::{HALVING, StemPool};
use crate::variants::{AntiAlias, Attention};
use candle_core::{DType, Device, Tensor};
use resnext_ops::{AvgPool2dConfig, BatchNormConfig, Pool2dConfig};

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

impl Export {
    /// The bytes of an ONNX file of the network: from `images` (batch, 3, height, width), f32, of any batch
    /// size, height and width, to `logits` (batch, classes), f32. `name` is the graph's. What
    /// [`describe`](Self::describe) was given is in the model's `metadata_props`.
    ///
    /// The weights of convolutions and of the last layer are stored as `dtype`, F32, F16 or BF16, and
    /// converted to f32 to compute, because few runtimes have CPU kernels for other types. Batch norms are
    /// not folded and stay f32, so that the graph can be trained further.
    ///
    /// # Errors
    /// If a weight is beyond the range of `dtype`, or the file would exceed the format's 2 GiB.
    pub fn onnx(&self, name: &str, dtype: DType) -> Result<Vec<u8>> {
        let mut graph = Graph { export: self, dtype, message: Message::default() };
        let config = self.config();
        let mut x = "images".to_string();
        for layer in config.stem_layers() {
            x = graph.conv_norm(&x, layer.conv, layer.norm, layer.size)?;
            x = graph.relu(&x);
        }
        x = graph.stem_pool(&x, config)?;
        for (s, stage) in config.blocks().iter().enumerate() {
            for (i, size) in stage.iter().enumerate() {
                x = graph.block(&x, &layer_names::block(s, i), size, config)?;
            }
        }
        x = graph.node("GlobalAveragePool", &[&x], "avgpool", &[]);
        x = graph.node("Flatten", &[&x], "flatten", &[]);
        let (weight, bias) = (graph.weight("fc.weight")?, graph.parameter("fc.bias")?);
        graph.node("Gemm", &[&x, &weight, &bias], "logits", &[int("transB", 1)]);
        graph.finish(name, config.classes)
    }
}

/// A graph that is being written, ONNX's `GraphProto`.
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

/// Name, type and shape of an input or output, ONNX's `ValueInfoProto`.
fn value_info(name: &str, dims: &[Message]) -> Message {
    let shape = dims.iter().fold(Message::default(), |shape, dim| shape.message(1, dim));
    let tensor = Message::default().integer(1, FLOAT).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}

impl Graph<'_> {
    /// Adds the residual block `name` with input `x`, and returns the name of its output.
    fn block(&mut self, x: &str, name: &str, size: &BlockSize, config: &Config) -> Result<String> {
        let of = |part: &str| format!("{name}.{part}");
        let shortcut = config.shortcut;
        let mut y = x.to_string();
        for (j, conv) in size.convs().into_iter().enumerate() {
            if j > 0 {
                y = self.relu(&y);
            }
            if j > 0 && size.anti_alias_layer() == Some(j - 1) {
                y = self.halved(&y, &of("aa"), size.anti_alias, conv.input)?;
            }
            let (name, norm) = (of(&format!("conv{}", j + 1)), of(&format!("bn{}", j + 1)));
            y = self.conv_norm(&y, &name, &norm, conv)?;
        }
        y = self.attention(&y, &of("se"), config.attention)?;
        let projection = size.projection(shortcut);
        let shortcut = match (size.changes_shape(), shortcut) {
            (_, Shortcut::None) => return Ok(self.relu(&y)),
            (false, _) => x.to_string(),
            (true, Shortcut::Projection) => {
                self.conv_norm(x, &of("downsample.0"), &of("downsample.1"), projection)?
            }
            (true, Shortcut::Pooled) => {
                let pooled = match size.stride {
                    1 => x.to_string(),
                    _ => self.average(x, &of("downsample.0"), HALVING),
                };
                self.conv_norm(&pooled, &of("downsample.1"), &of("downsample.2"), projection)?
            }
            (true, Shortcut::Identity) => {
                let shape = (size.output, size.input, 1, 1);
                let weight = Tensor::from_vec(size.identity_weight(), shape, &Device::Cpu)?;
                let weight = self.initializer(&of("shortcut"), &weight, DType::F32)?;
                self.conv(x, &weight, &of("downsample"), projection)
            }
        };
        y = self.node("Add", &[&y, &shortcut], &of("add"), &[]);
        Ok(self.relu(&y))
    }

    /// Adds the pool after the stem's convolutions.
    fn stem_pool(&mut self, x: &str, config: &Config) -> Result<String> {
        Ok(match config.stem_pool() {
            StemPool::None => x.to_string(),
            StemPool::Max(pool) => self.max_pool(x, "maxpool", pool),
            StemPool::Average(pool) => self.average(x, "maxpool", pool),
            StemPool::Blurred(pool) => {
                let x = self.max_pool(x, "maxpool.0", pool);
                self.halved(&x, "maxpool.1", AntiAlias::Blur, config.stem_output())?
            }
        })
    }

    fn max_pool(&mut self, x: &str, name: &str, pool: Pool2dConfig) -> String {
        let Pool2dConfig { kernel, stride, padding } = pool;
        let [kernel, stride, padding] = [kernel, stride, padding].map(|n| n as i64);
        let attributes =
            [ints("kernel_shape", &[kernel; 2]), ints("strides", &[stride; 2]), ints("pads", &[padding; 4])];
        self.node("MaxPool", &[x], name, &attributes)
    }

    fn average(&mut self, x: &str, name: &str, pool: AvgPool2dConfig) -> String {
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

    /// Adds the pool that halves the sides of `x`, of `channels` channels, in the place of a stride.
    fn halved(&mut self, x: &str, name: &str, kind: AntiAlias, channels: usize) -> Result<String> {
        match kind {
            AntiAlias::None => Ok(x.to_string()),
            AntiAlias::Average => Ok(self.average(x, name, HALVING)),
            AntiAlias::Blur => {
                let pads = self.integers(&format!("{name}.pads"), &[0, 0, 1, 1, 0, 0, 1, 1]);
                let mode = attribute("mode", 3).text(4, "reflect");
                let padded = self.node("Pad", &[x, &pads], &format!("{name}.padded"), &[mode]);
                let filter = [1f32, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0].map(|v| v / 16.0);
                let weight = Tensor::from_vec(filter.repeat(channels), (channels, 1, 3, 3), &Device::Cpu)?;
                let weight = self.initializer(&format!("{name}.filter"), &weight, DType::F32)?;
                let attributes =
                    [ints("kernel_shape", &[3; 2]), ints("strides", &[2; 2]), int("group", channels as i64)];
                Ok(self.node("Conv", &[&padded, &weight], name, &attributes))
            }
        }
    }

    /// Adds the product of `x` with a factor for each channel.
    fn attention(&mut self, x: &str, name: &str, kind: Attention) -> Result<String> {
        let of = |part: &str| format!("{name}.{part}");
        let means = match kind {
            Attention::None => return Ok(x.to_string()),
            _ => self.node("GlobalAveragePool", &[x], &of("means"), &[]),
        };
        let logits = match kind {
            Attention::Eca => {
                // Channels become the rows of a map, along which the convolution goes.
                let (weight, kernel) = {
                    let weight = self.export.tensor(&of("conv.weight"))?;
                    let kernel = weight.elem_count();
                    (weight.reshape((1, 1, kernel, 1))?, kernel as i64)
                };
                let weight = self.initializer(&of("conv.weight"), &weight, DType::F32)?;
                let swap = [ints("perm", &[0, 2, 1, 3])];
                let rows = self.node("Transpose", &[&means], &of("rows"), &swap);
                let attributes =
                    [ints("kernel_shape", &[kernel, 1]), ints("pads", &[kernel / 2, 0, kernel / 2, 0])];
                let rows = self.node("Conv", &[&rows, &weight], &of("conv"), &attributes);
                self.node("Transpose", &[&rows], &of("channels"), &swap)
            }
            _ => {
                let hidden = self.pointwise(&means, &of("fc1"))?;
                let hidden = self.relu(&hidden);
                self.pointwise(&hidden, &of("fc2"))?
            }
        };
        let factors = self.node("Sigmoid", &[&logits], &of("factors"), &[]);
        Ok(self.node("Mul", &[x, &factors], name, &[]))
    }

    /// Adds a 1×1 convolution with a bias.
    fn pointwise(&mut self, x: &str, name: &str) -> Result<String> {
        let weight = self.weight(&format!("{name}.weight"))?;
        let bias = self.parameter(&format!("{name}.bias"))?;
        Ok(self.node("Conv", &[x, &weight, &bias], name, &[ints("kernel_shape", &[1; 2])]))
    }

    /// Adds a list of integers.
    fn integers(&mut self, name: &str, values: &[i64]) -> String {
        const INT64: i64 = 7;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dims = Message::default().integer(1, values.len() as i64);
        let message = dims.integer(2, INT64).text(8, name).bytes(9, &bytes);
        self.message = std::mem::take(&mut self.message).message(5, &message);
        name.to_string()
    }

    /// Adds an operation with one output, to which it gives its own name.
    fn node(&mut self, op: &str, inputs: &[&str], name: &str, attributes: &[Message]) -> String {
        let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
        let node = node.text(2, name).text(3, name).text(4, op);
        let node = attributes.iter().fold(node, |node, attribute| node.message(5, attribute));
        self.message = std::mem::take(&mut self.message).message(1, &node);
        name.to_string()
    }

    /// Adds a tensor, stored as `dtype`.
    fn initializer(&mut self, name: &str, tensor: &Tensor, dtype: DType) -> Result<String> {
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
    fn weight(&mut self, name: &str) -> Result<String> {
        let stored = self.initializer(name, self.export.tensor(name)?, self.dtype)?;
        Ok(match self.dtype {
            DType::F32 => stored,
            _ => self.node("Cast", &[&stored], &format!("{name}.f32"), &[int("to", FLOAT)]),
        })
    }

    /// Adds a parameter that is stored as f32.
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

    /// Adds a convolution and the batch norm after it.
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

    /// The bytes of the whole file, ONNX's `ModelProto`.
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
