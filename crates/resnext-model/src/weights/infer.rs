//! What network weights are of.

use super::Weights;
use crate::config::{BlockKind, Config, Form, Shortcut, Stem};
use crate::error::{Error, Result};

impl Weights {
    /// The network these weights are of, by their names and shapes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if they are of a network this crate doesn't have, which names what gave it away.
    pub fn config(&self) -> Result<Config> {
        let refused = |what: String| Error::Unsupported { path: self.path.clone(), what };
        let dims = |name: &str| self.entries.get(name).map(|entry| entry.shape.as_slice());
        let square = |name: &str| match dims(name) {
            Some(&[output, input, h, w]) if h == w => Ok((output, input, h)),
            Some(other) => Err(refused(format!("a convolution of shape {other:?} ({name})"))),
            None => Err(refused(format!("no {name}, which every ResNet and ResNeXt has"))),
        };
        for (name, what) in [
            ("conv1.0.weight", "a stem of three convolutions, as in resnet50d"),
            ("layer1.0.downsample.1.0.weight", "an average pool in the shortcut, as in resnet50d"),
            ("layer1.0.se.fc1.weight", "squeeze and excitation, as in seresnext50_32x4d"),
            ("layer1.0.attn.conv.weight", "attention, as in ecaresnet50d"),
            ("layer1.0.bn1.num_features", "batch norm of another kind"),
        ] {
            if self.entries.contains_key(name) {
                return Err(refused(format!("{what} ({name})")));
            }
        }
        let (planes, channels, kernel) = square("conv1.weight")?;
        let stem = match (channels, kernel) {
            (3, 7) => Stem::ImageNet,
            (3, 3) => Stem::Cifar,
            _ => {
                return Err(refused(format!(
                    "a first convolution of {channels} channels, {kernel}×{kernel}"
                )));
            }
        };
        let paths = (0..).take_while(|i| dims(&format!("layer1.0.paths.{i}.conv1.weight")).is_some()).count();
        let block = match dims("layer1.0.conv2.weight").is_some() && dims("layer1.0.conv3.weight").is_none() {
            true => BlockKind::Basic,
            false => BlockKind::Bottleneck,
        };
        let (form, cardinality, base_width) = if block == BlockKind::Basic {
            let (width, ..) = square("layer1.0.conv1.weight")?;
            (Form::C, 1, width)
        } else if paths > 0 {
            let (width, ..) = square("layer1.0.paths.0.conv1.weight")?;
            let summed = dims("layer1.0.paths.0.conv3.weight").is_some();
            (if summed { Form::A } else { Form::B }, paths, width)
        } else {
            let (inner, width, _) = square("layer1.0.conv2.weight")?;
            if width == 0 || !inner.is_multiple_of(width) {
                return Err(refused(format!(
                    "{inner} channels in groups of {width} (layer1.0.conv2.weight)"
                )));
            }
            (Form::C, inner / width, width)
        };
        let depths: Vec<usize> =
            (1..).map(|stage| self.depth(stage)).take_while(|&depth| depth > 0).collect();
        let projected = (1..=depths.len())
            .any(|stage| self.entries.contains_key(&format!("layer{stage}.0.downsample.0.weight")));
        let classes = match dims("fc.weight") {
            Some(&[classes, _]) => classes,
            Some(other) => return Err(refused(format!("a last layer of shape {other:?} (fc.weight)"))),
            // A backbone: the number is the caller's to choose, with a fresh head.
            None => 1000,
        };
        let config = Config {
            cardinality,
            base_width,
            depths,
            planes,
            block,
            stem,
            shortcut: if projected { Shortcut::Projection } else { Shortcut::Identity },
            classes,
            form,
            zero_init_last: false,
        };
        config.validate().map_err(|error| refused(error.to_string()))?;
        Ok(config)
    }

    /// Blocks of a stage, from 1.
    fn depth(&self, stage: usize) -> usize {
        let block = |i: &usize| {
            let start = format!("layer{stage}.{i}.");
            self.entries.range(start.clone()..).next().is_some_and(|(name, _)| name.starts_with(&start))
        };
        (0..).take_while(block).count()
    }
}
