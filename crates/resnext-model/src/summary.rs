//! Layers, parameters and work of a configuration, without building it.

use crate::config::{Config, ConvSize, Shortcut, Stem};
use crate::error::Result;

/// One layer of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// The weight's name in form (c), without `.weight`.
    pub name: String,
    /// What it is, such as `3×3/2, 32 groups`.
    pub kind: String,
    /// Its output (C, H, W).
    pub output: (usize, usize, usize),
    /// Trainable parameters, those of the batch norm behind it included.
    pub parameters: usize,
    /// Multiply-adds for one image.
    pub multiply_adds: usize,
}

/// The layers of a network and their sums.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Every convolution, pooling and the last linear layer.
    pub layers: Vec<Layer>,
}

impl Summary {
    /// The layers of `config` for one image of height `h` and width `w`.
    ///
    /// # Errors
    /// Those of [`Config::validate`].
    pub fn new(config: &Config, h: usize, w: usize) -> Result<Self> {
        config.validate()?;
        let mut layers = Vec::new();
        let mut conv = |name: String, conv: ConvSize, size: (usize, usize)| {
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
        let mut size = conv("conv1".into(), config.entrance(), (h, w));
        if config.stem == Stem::ImageNet {
            size = (size.0.div_ceil(2), size.1.div_ceil(2));
        }
        for (s, blocks) in config.blocks().iter().enumerate() {
            for (i, block) in blocks.iter().enumerate() {
                let name = |layer: &str| format!("layer{}.{i}.{layer}", s + 1);
                let mut out = size;
                for (j, part) in block.convs().into_iter().enumerate() {
                    out = conv(name(&format!("conv{}", j + 1)), part, out);
                }
                if block.changes_shape() && config.shortcut == Shortcut::Projection {
                    conv(name("downsample.0"), block.projection(), size);
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

    /// Trainable parameters.
    pub fn parameters(&self) -> usize {
        self.layers.iter().map(|layer| layer.parameters).sum()
    }

    /// Multiply-adds for one image.
    pub fn multiply_adds(&self) -> usize {
        self.layers.iter().map(|layer| layer.multiply_adds).sum()
    }

    /// Bytes of all layers' outputs for one image in f32: what training keeps of the convolutions.
    pub fn activation_bytes(&self) -> usize {
        self.layers.iter().map(|layer| 4 * layer.output.0 * layer.output.1 * layer.output.2).sum()
    }
}
