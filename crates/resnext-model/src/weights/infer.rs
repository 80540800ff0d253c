//! The configuration of a network, inferred from the names and shapes of its weights.

use super::Weights;
use crate::config::{BlockKind, Config, Form, Shortcut, StemKind};
use crate::error::{Error, Result};
use crate::layer_names;

/// Weights that only networks of other kinds have, and what they are.
const OTHER_NETWORKS: [(&str, &str); 5] = [
    ("conv1.0.weight", "a stem of three convolutions, as in resnet50d"),
    ("layer1.0.downsample.1.0.weight", "an average pool in the shortcut, as in resnet50d"),
    ("layer1.0.se.fc1.weight", "squeeze and excitation, as in seresnext50_32x4d"),
    ("layer1.0.attn.conv.weight", "attention, as in ecaresnet50d"),
    ("layer1.0.bn1.num_features", "batch norm of another kind"),
];

impl Weights {
    /// The configuration of the network that these weights are of, inferred from their names and shapes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if they are of a network this crate does not have; it names the weight that
    /// shows it.
    pub fn config(&self) -> Result<Config> {
        for (name, what) in OTHER_NETWORKS {
            if self.dims(name).is_some() {
                return Err(self.unsupported(format!("{what} ({name})")));
            }
        }
        let (stem, planes) = self.stem()?;
        let (block, form, cardinality, base_width) = self.block()?;
        let depths: Vec<usize> = (0..).map(|s| self.depth(s)).take_while(|&depth| depth > 0).collect();
        let projection = |s: usize| format!("{}.downsample.0.weight", layer_names::block(s, 0));
        let projected = (0..depths.len()).any(|s| self.dims(&projection(s)).is_some());
        let config = Config {
            cardinality,
            base_width,
            depths,
            planes,
            block,
            stem,
            shortcut: if projected { Shortcut::Projection } else { Shortcut::Identity },
            classes: self.classes()?,
            form,
            zero_init_last: false,
        };
        config.validate().map_err(|error| self.unsupported(error.to_string()))?;
        Ok(config)
    }

    fn unsupported(&self, what: String) -> Error {
        Error::Unsupported { path: self.path.clone(), what }
    }

    /// The shape of a weight, if the file has it.
    fn dims(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Output channels, input channels per group and side of a square kernel.
    fn square(&self, name: &str) -> Result<(usize, usize, usize)> {
        match self.dims(name) {
            Some(&[output, input, h, w]) if h == w => Ok((output, input, h)),
            Some(other) => Err(self.unsupported(format!("a convolution of shape {other:?} ({name})"))),
            None => {
                let names = self.some_names();
                let what = format!("no {name}, which every ResNet and ResNeXt has; it has {names}");
                Err(self.unsupported(what))
            }
        }
    }

    /// The stem and its output channels.
    fn stem(&self) -> Result<(StemKind, usize)> {
        match self.square("conv1.weight")? {
            (planes, 3, 7) => Ok((StemKind::ImageNet, planes)),
            (planes, 3, 3) => Ok((StemKind::Cifar, planes)),
            (_, channels, kernel) => {
                let what = format!("a first convolution of {channels} channels, {kernel}×{kernel}");
                Err(self.unsupported(what))
            }
        }
    }

    /// Kind, form, cardinality and base width of the first block.
    fn block(&self) -> Result<(BlockKind, Form, usize, usize)> {
        let has = |name: &str| self.dims(&format!("layer1.0.{name}.weight")).is_some();
        let paths = (0..).take_while(|i| has(&format!("paths.{i}.conv1"))).count();
        if has("conv2") && !has("conv3") {
            let (width, ..) = self.square("layer1.0.conv1.weight")?;
            return Ok((BlockKind::Basic, Form::C, 1, width));
        }
        if paths > 0 {
            let (width, ..) = self.square("layer1.0.paths.0.conv1.weight")?;
            let form = if has("paths.0.conv3") { Form::A } else { Form::B };
            return Ok((BlockKind::Bottleneck, form, paths, width));
        }
        let (inner, width, _) = self.square("layer1.0.conv2.weight")?;
        if width == 0 || !inner.is_multiple_of(width) {
            let what = format!("{inner} channels in groups of {width} (layer1.0.conv2.weight)");
            return Err(self.unsupported(what));
        }
        Ok((BlockKind::Bottleneck, Form::C, inner / width, width))
    }

    /// The number of classes.
    fn classes(&self) -> Result<usize> {
        match self.dims("fc.weight") {
            Some(&[classes, _]) => Ok(classes),
            Some(other) => Err(self.unsupported(format!("a last layer of shape {other:?} (fc.weight)"))),
            // A backbone without a last layer: the caller will choose a number, with a fresh head.
            None => Ok(1000),
        }
    }

    /// The number of blocks in stage `s`, counted from 0.
    fn depth(&self, s: usize) -> usize {
        let exists = |i: &usize| {
            let start = format!("{}.", layer_names::block(s, *i));
            self.entries.range(start.clone()..).next().is_some_and(|(name, _)| name.starts_with(&start))
        };
        (0..).take_while(exists).count()
    }
}
