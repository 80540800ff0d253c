//! The layers, parameters and multiply-adds of a configuration, without building the network.

use crate::config::{Config, ConvSize, Shortcut};
use crate::error::Result;
use crate::variants::Attention;
use crate::{eca, layer_names, squeeze_excite};

/// One layer of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// The name of its weight in form (c), without `.weight`.
    pub name: String,
    /// Kernel, stride and groups, for example `3×3/2, 32 groups`; or `linear`.
    pub kind: String,
    /// Its output's shape (C, H, W).
    pub output: (usize, usize, usize),
    /// The number of trainable parameters, including those of the batch norm after the layer or its bias.
    pub parameters: usize,
    /// The number of multiply-adds for one image.
    pub multiply_adds: usize,
}

/// The layers of a block's attention over `channels` channels, which are called `name`.
fn attention(kind: Attention, channels: usize, name: &str) -> Vec<Layer> {
    let layer = |part: &str, kind: String, outputs: usize, weights: usize, parameters: usize| Layer {
        name: format!("{name}.{part}"),
        kind,
        output: (outputs, 1, 1),
        parameters,
        multiply_adds: weights,
    };
    match kind {
        Attention::None => Vec::new(),
        Attention::SqueezeExcite { reduction } => {
            let hidden = squeeze_excite::hidden(channels, reduction);
            let weights = channels * hidden;
            vec![
                layer("fc1", "1×1".into(), hidden, weights, weights + hidden),
                layer("fc2", "1×1".into(), channels, weights, weights + channels),
            ]
        }
        Attention::Eca => {
            let kernel = eca::kernel(channels);
            vec![layer("conv", format!("{kernel} channels"), channels, channels * kernel, kernel)]
        }
    }
}

/// The layers of a network and their sums.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Every convolution, in the order of the network, the layers of attention, and the last, linear layer.
    pub layers: Vec<Layer>,
}

impl Summary {
    /// The layers of `config` for one image of `h`×`w` pixels.
    ///
    /// # Errors
    /// The errors of [`Config::validate`].
    pub fn new(config: &Config, h: usize, w: usize) -> Result<Self> {
        config.validate()?;
        let mut layers = Vec::new();
        let conv = |layers: &mut Vec<Layer>, name: String, conv: ConvSize, size: (usize, usize)| {
            let ConvSize { input, output, kernel, stride, groups, .. } = conv;
            let (h, w) = (size.0.div_ceil(stride), size.1.div_ceil(stride));
            let weights = output * (input / groups) * kernel * kernel;
            let stride_text = if stride > 1 { format!("/{stride}") } else { String::new() };
            let groups_text = if groups > 1 { format!(", {groups} groups") } else { String::new() };
            layers.push(Layer {
                name,
                kind: format!("{kernel}×{kernel}{stride_text}{groups_text}"),
                output: (output, h, w),
                parameters: weights + 2 * output,
                multiply_adds: weights * h * w,
            });
            (h, w)
        };
        let mut size = (h, w);
        for layer in config.stem_layers() {
            size = conv(&mut layers, layer.conv.into(), layer.size, size);
        }
        let pool = config.stem_pool();
        size = (pool.output(size.0), pool.output(size.1));
        for (s, blocks) in config.blocks().iter().enumerate() {
            for (i, block) in blocks.iter().enumerate() {
                let name = |layer: &str| format!("{}.{layer}", layer_names::block(s, i));
                let mut out = size;
                for (j, part) in block.convs().into_iter().enumerate() {
                    out = conv(&mut layers, name(&format!("conv{}", j + 1)), part, out);
                    if block.anti_alias_layer() == Some(j) {
                        out = (out.0.div_ceil(2), out.1.div_ceil(2));
                    }
                }
                layers.extend(attention(config.attention, block.output, &name("se")));
                let projected = !matches!(config.shortcut, Shortcut::Identity | Shortcut::None);
                if block.changes_shape() && projected {
                    let pooled = config.shortcut == Shortcut::Pooled;
                    let source = if pooled { out } else { size };
                    let layer = if pooled { "downsample.1" } else { "downsample.0" };
                    conv(&mut layers, name(layer), block.projection(config.shortcut), source);
                }
                size = out;
            }
        }
        layers.push(Layer {
            name: "fc".into(),
            kind: "linear".into(),
            output: (config.classes, 1, 1),
            parameters: (config.features() + 1) * config.classes,
            multiply_adds: config.features() * config.classes,
        });
        Ok(Summary { layers })
    }

    /// The number of the network's trainable parameters.
    pub fn parameters(&self) -> usize {
        self.layers.iter().map(|layer| layer.parameters).sum()
    }

    /// The number of multiply-adds for one image.
    pub fn multiply_adds(&self) -> usize {
        self.layers.iter().map(|layer| layer.multiply_adds).sum()
    }

    /// The size in bytes of all layers' outputs for one image in f32, which training keeps for the backward
    /// pass.
    pub fn activation_bytes(&self) -> usize {
        self.layers.iter().map(|layer| 4 * layer.output.0 * layer.output.1 * layer.output.2).sum()
    }
}
