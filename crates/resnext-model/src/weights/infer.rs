//! A network, inferred from the names and shapes of its weights.

use super::Weights;
use crate::architecture::Architecture;
use crate::config::{BlockKind, Config, Form, Shortcut, StemKind};
use crate::description::Description;
use crate::error::{Error, Result};
use crate::variants::{AntiAlias, Attention, StemConvs};
use crate::{layer_names, squeeze_excite};

/// Weights that only networks of other kinds have, and what they are.
const OTHER_NETWORKS: [(&str, &str); 4] = [
    ("layer1.0.downsample.1.0.weight", "a shortcut of another kind"),
    ("maxpool.0.weight", "a convolution in place of the max-pool, as in resnetrs50"),
    ("layer1.0.attn.conv.weight", "attention of another kind"),
    ("layer1.0.bn1.num_features", "batch norm of another kind"),
];

/// The most classes that a file may have.
const MOST_CLASSES: usize = 1 << 20;

impl Weights {
    /// The network that these weights are of, recognised by their names and shapes.
    ///
    /// # Errors
    /// The errors of [`config`](Self::config), if they are not of a baseline.
    pub fn network(&self) -> Result<Architecture> {
        let Some(baseline) = self.baseline else { return Ok(Architecture::ResNext(self.config()?)) };
        let head = format!("{}.weight", baseline.head().0);
        match self.entries.get(&head).map(|entry| entry.shape.as_slice()) {
            Some(&[classes, _]) if (1..=MOST_CLASSES).contains(&classes) => {
                Ok(Architecture::Baseline { baseline, classes })
            }
            shape => {
                let name = baseline.name();
                let problem = match shape {
                    Some(shape) => format!("expected the last layer of {name}, file has shape {shape:?}"),
                    None => format!("no last layer, which {name} has"),
                };
                Err(Error::Weight { path: self.path.clone(), name: head, problem })
            }
        }
    }

    /// The configuration of the network that these weights are of, inferred from their names and shapes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if they are of a network this crate does not have; it names the weight that
    /// shows it.
    pub fn config(&self) -> Result<Config> {
        if let Some(baseline) = self.baseline {
            return Err(self.unsupported(baseline.name().into()));
        }
        for (name, what) in OTHER_NETWORKS {
            if self.dims(name).is_some() {
                return Err(self.unsupported(format!("{what} ({name})")));
            }
        }
        let (stem, stem_convs, stem_output) = self.stem()?;
        let (block, form, cardinality, base_width) = self.block()?;
        let depths: Vec<usize> = (0..).map(|s| self.depth(s)).take_while(|&depth| depth > 0).collect();
        let outputs: Vec<usize> = (0..depths.len()).filter_map(|s| self.outputs(s, block)).collect();
        let planes = outputs.first().map_or(stem_output, |first| first / block.expansion());
        let doubled = |s: usize| base_width.checked_shl(s as u32);
        let widths = (0..depths.len()).map(|s| self.width(s, cardinality).or(doubled(s)));
        let widths: Vec<usize> = widths.map(Option::unwrap_or_default).collect();
        let doubling = widths.iter().enumerate().all(|(s, &width)| Some(width) == doubled(s));
        let config = Config {
            cardinality,
            base_width,
            widths: if doubling { Vec::new() } else { widths },
            depths,
            planes,
            block,
            stem,
            stem_convs,
            stem_channels: (stem_output != planes).then_some(stem_output),
            shortcut: self.shortcut(outputs.len()),
            attention: self.attention(&outputs)?,
            anti_alias: self.described_anti_alias(),
            classes: self.classes()?,
            form,
            zero_init_last: false,
        };
        config.validate().map_err(|error| {
            let problem = match error {
                Error::Config(problem) => problem,
                other => other.to_string(),
            };
            self.unsupported(format!("sizes that no network can have: {problem}"))
        })?;
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

    /// The channels of stage `s`, counted from 0: those of the batch norm at the end of its first block.
    fn outputs(&self, s: usize, block: BlockKind) -> Option<usize> {
        let norm = match block {
            BlockKind::Bottleneck => "bn3",
            BlockKind::Basic => "bn2",
        };
        self.dims(&format!("{}.{norm}.weight", layer_names::block(s, 0)))?.first().copied()
    }

    /// The shortcut of blocks that change the shape, of which there is one in a stage at most.
    fn shortcut(&self, stages: usize) -> Shortcut {
        let any = |layer: &str, rank: usize| {
            let name = |s: usize| format!("{}.downsample.{layer}.weight", layer_names::block(s, 0));
            (0..stages).any(|s| self.dims(&name(s)).is_some_and(|dims| dims.len() == rank))
        };
        match (any("0", 4), any("1", 4)) {
            (true, _) => Shortcut::Projection,
            (_, true) => Shortcut::Pooled,
            _ => Shortcut::Identity,
        }
    }

    /// The attention of the blocks, whose stages have the channels `outputs`.
    fn attention(&self, outputs: &[usize]) -> Result<Attention> {
        let layer = |s: usize, part: &str| format!("{}.se.{part}.weight", layer_names::block(s, 0));
        if self.dims(&layer(0, "conv")).is_some() {
            return Ok(Attention::Eca);
        }
        if self.dims(&layer(0, "fc1")).is_none() {
            return Ok(Attention::None);
        }
        // Several reductions may give the same sizes: what the file says of itself is meant, otherwise timm's own.
        let described = match self.described().map(|config| config.attention) {
            Some(Attention::SqueezeExcite { reduction }) => Some(reduction),
            _ => None,
        };
        let fits = |reduction: &usize| {
            outputs.iter().enumerate().all(|(s, &channels)| {
                let found = self.dims(&layer(s, "fc1")).and_then(|dims| dims.first());
                channels > 0 && found == Some(&squeeze_excite::hidden(channels, *reduction))
            })
        };
        match described.into_iter().chain([16]).chain(1..=4096).find(fits) {
            Some(reduction) => Ok(Attention::SqueezeExcite { reduction }),
            None => {
                let found = self.dims(&layer(0, "fc1")).unwrap_or_default();
                Err(self.unsupported(format!("squeeze and excitation of {found:?} ({})", layer(0, "fc1"))))
            }
        }
    }

    /// The anti-aliasing that the file's own description of the network has: there are no weights to show it.
    fn described_anti_alias(&self) -> AntiAlias {
        self.described().map_or(AntiAlias::None, |config| config.anti_alias)
    }

    /// The network that the file itself says it is of.
    fn described(&self) -> Option<Config> {
        let description: Description = serde_json::from_str(self.metadata.get(Description::KEY)?).ok()?;
        description.network.config().ok().cloned()
    }

    /// The output channels of a stem's three convolutions.
    fn deep_stem(&self) -> Result<[usize; 3]> {
        let channels = |name: &str| match self.dims(name) {
            Some(&[output, _, 3, 3]) => Ok(output),
            Some(other) => Err(self.unsupported(format!("a convolution of shape {other:?} ({name})"))),
            None => Err(self.unsupported(format!("a stem of three convolutions without {name}"))),
        };
        Ok([channels("conv1.0.weight")?, channels("conv1.3.weight")?, channels("conv1.6.weight")?])
    }

    /// The stem, its convolutions and its output channels.
    fn stem(&self) -> Result<(StemKind, StemConvs, usize)> {
        if self.dims("conv1.0.weight").is_some() {
            let [first, second, output] = self.deep_stem()?;
            let of = |convs: &StemConvs| convs.hidden(output) == Some([first, second]);
            let known = [StemConvs::Deep, StemConvs::Tiered].into_iter().find(of).ok_or_else(|| {
                let what = format!("a stem of {first}, {second} and {output} channels (conv1.0.weight)");
                self.unsupported(what)
            })?;
            return Ok((StemKind::ImageNet, known, output));
        }
        match self.square("conv1.weight")? {
            (planes, 3, 7) => Ok((StemKind::ImageNet, StemConvs::Single, planes)),
            (planes, 3, 3) => Ok((StemKind::Cifar, StemConvs::Single, planes)),
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

    /// Channels per path in stage `s`, counted from 0, if all layers of its first block agree about them. Where
    /// they do not, a weight has the wrong shape, which the check of all weights reports.
    fn width(&self, s: usize, cardinality: usize) -> Option<usize> {
        let dims = |layer: &str| self.dims(&format!("{}.{layer}.weight", layer_names::block(s, 0)));
        if let (Some(&[reduced, ..]), Some(&[spatial, input, ..])) =
            (dims("paths.0.conv1"), dims("paths.0.conv2"))
        {
            return (reduced == spatial && spatial == input).then_some(input);
        }
        let (&[reduced, ..], &[spatial, width, ..], &[_, expanded, ..]) =
            (dims("conv1")?, dims("conv2")?, dims("conv3")?)
        else {
            return None;
        };
        let inner = width.checked_mul(cardinality)?;
        [reduced, spatial, expanded].iter().all(|&channels| channels == inner).then_some(width)
    }

    /// The number of classes.
    fn classes(&self) -> Result<usize> {
        match self.dims("fc.weight") {
            Some(&[classes, _]) => Ok(classes),
            Some(other) => Err(self.unsupported(format!("a last layer of shape {other:?} (fc.weight)"))),
            // A backbone without a last layer, for which the caller will choose a number, with a fresh head; or else
            // weights under another name, which are missing.
            None => Ok(match self.dims("fc.bias") {
                Some(&[classes]) => classes,
                _ => 1000,
            }),
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
