//! Layers, parameters and work of a configuration, without building it.

use crate::config::{Config, Shortcut, Stem};

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
    /// # Panics
    /// If [`config.validate()`](Config::validate) fails.
    pub fn new(config: &Config, h: usize, w: usize) -> Self {
        let mut layers = Vec::new();
        let mut conv = |name: String,
                        input: usize,
                        output: usize,
                        kernel: usize,
                        stride: usize,
                        groups: usize,
                        size: (usize, usize)| {
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
        let mut size = match config.stem {
            Stem::ImageNet => {
                let (h, w) = conv("conv1".into(), 3, config.planes, 7, 2, 1, (h, w));
                (h.div_ceil(2), w.div_ceil(2))
            }
            Stem::Cifar => conv("conv1".into(), 3, config.planes, 3, 1, 1, (h, w)),
        };
        for (s, blocks) in config.blocks().iter().enumerate() {
            for (i, block) in blocks.iter().enumerate() {
                let name = |layer: &str| format!("layer{}.{i}.{layer}", s + 1);
                conv(name("conv1"), block.input, block.inner(), 1, 1, 1, size);
                let out = conv(
                    name("conv2"),
                    block.inner(),
                    block.inner(),
                    3,
                    block.stride,
                    block.cardinality,
                    size,
                );
                conv(name("conv3"), block.inner(), block.output, 1, 1, 1, out);
                if block.changes_shape() && config.shortcut == Shortcut::Projection {
                    conv(name("downsample.0"), block.input, block.output, 1, block.stride, 1, size);
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
        Summary { layers }
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
