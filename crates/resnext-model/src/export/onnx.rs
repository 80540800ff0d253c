//! A network as an ONNX graph.

use super::baseline::{add_baseline, side};
use super::graph::{Graph, attribute, int, ints};
use super::tensors::Export;
use crate::architecture::Architecture;
use crate::config::{BlockSize, Config, ConvSize, Shortcut};
use crate::error::Result;
use crate::layer_names;
use crate::pools::{HALVING, StemPool};
use crate::variants::{AntiAlias, Attention};
use candle_core::{DType, Device, Tensor};
use resnext_ops::BatchNormConfig;

impl Export {
    /// The bytes of an ONNX file of the network: from `images` (batch, 3, height, width), f32, of any batch
    /// size, height and width, to `logits` (batch, classes), f32. `name` is the graph's. What
    /// [`describe`](Self::describe) was given is in the model's `metadata_props`.
    ///
    /// The weights of convolutions and of the last layer are stored as `dtype`, F32, F16 or BF16, and
    /// converted to f32 to compute, because few runtimes have CPU kernels for other types. Batch norms are
    /// not folded and stay f32, so that the graph can be trained further.
    ///
    /// VGG averages its last map over 7×7 cells, for which ONNX has no operation: its file takes images of
    /// 224×224, where each cell is one pixel.
    ///
    /// # Errors
    /// If the file's description says that VGG's images have another size, a weight is beyond the range of `dtype`, or
    /// the file would exceed the format's 2 GiB.
    pub fn onnx(&self, name: &str, dtype: DType) -> Result<Vec<u8>> {
        let mut graph = Graph::new(self, dtype);
        let network = self.network();
        match network {
            Architecture::ResNext(config) => graph.residual_network(config)?,
            Architecture::Baseline { baseline, .. } => add_baseline(&mut graph, *baseline)?,
        }
        graph.finish(name, network.classes(), side(self)?)
    }
}

impl Graph<'_> {
    /// Adds a ResNet or ResNeXt.
    fn residual_network(&mut self, config: &Config) -> Result<()> {
        let mut x = "images".to_string();
        for layer in config.stem_layers() {
            x = self.conv_norm(&x, layer.conv, layer.norm, layer.size)?;
            x = self.relu(&x);
        }
        x = self.stem_pool(&x, config)?;
        for (s, stage) in config.blocks().iter().enumerate() {
            for (i, size) in stage.iter().enumerate() {
                x = self.block(&x, &layer_names::block(s, i), size, config)?;
            }
        }
        self.classifier(&x, "fc")
    }

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
        self.norm(&x, norm, BatchNormConfig::default().eps)
    }
}
