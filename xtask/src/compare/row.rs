//! A network of the comparison, and its row of the table.

use super::noise;
use super::published::{self, Errors, Source};
use crate::bench::stats::quantile;
use crate::dtype_arg::Dtype;
use crate::inputs::images;
use anyhow::Result;
use candle_core::Tensor;
use resnext_model::{Baseline, Config, Form, Fused, FusedBaseline, StemKind, Summary};
use std::time::Instant;

/// A network by its name.
pub struct Network {
    pub name: String,
    kind: Kind,
    /// Height and width of the images that it was designed for.
    pub size: usize,
}

/// From images (N, 3, S, S) to logits.
type Forward = Box<dyn Fn(&Tensor) -> resnext_model::Result<Tensor>>;

/// What a network is built from.
enum Kind {
    /// A ResNet or ResNeXt.
    Config(Config),
    Baseline(Baseline),
}

impl Network {
    /// # Errors
    /// If no network has the name.
    pub fn named(name: &str) -> Result<Self> {
        if let Some(baseline) = Baseline::by_name(name) {
            return Ok(Network { name: name.into(), kind: Kind::Baseline(baseline), size: baseline.size() });
        }
        let config = Config { form: Form::C, ..Config::by_name(name)? };
        let size = if config.stem == StemKind::ImageNet { 224 } else { 32 };
        Ok(Network { name: name.into(), kind: Kind::Config(config), size })
    }

    /// The layers for one image of its own size.
    pub fn summary(&self) -> Result<Summary> {
        Ok(match &self.kind {
            Kind::Config(config) => Summary::new(config, self.size, self.size)?,
            Kind::Baseline(baseline) => baseline.summary(Baseline::CLASSES, self.size, self.size),
        })
    }

    /// The median time of a forward pass of one image, in milliseconds, of `runs` passes after one that is not
    /// counted.
    pub fn time(&self, dtype: Dtype, runs: usize) -> Result<f64> {
        let forward: Forward = match &self.kind {
            Kind::Config(config) => {
                let network = Fused::new(config, noise::builder(), dtype.into())?;
                Box::new(move |x| network.forward(x))
            }
            Kind::Baseline(baseline) => {
                let builder = noise::builder();
                let network = FusedBaseline::new(*baseline, Baseline::CLASSES, builder, dtype.into())?;
                Box::new(move |x| network.forward(x))
            }
        };
        let x = images(1, self.size)?;
        forward(&x)?;
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs {
            let start = Instant::now();
            forward(&x)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(quantile(&times, 0.5))
    }
}

/// What the table says of a network.
pub struct Row {
    /// Its name in the paper, or ours.
    pub title: String,
    pub size: usize,
    pub parameters: usize,
    /// Of one image.
    pub multiply_adds: usize,
    /// Bytes of all layers' outputs for one image in f32.
    pub activation_bytes: usize,
    /// Milliseconds per image by type; empty if they are not measured.
    pub times: Vec<(Dtype, f64)>,
    pub paper: Option<(Errors, Source)>,
    /// How the paper's network differs from this one.
    pub remark: Option<&'static str>,
    pub timm: Option<(Errors, &'static str)>,
}

impl Row {
    /// The row without times.
    pub fn new(network: &Network) -> Result<Self> {
        let summary = network.summary()?;
        let published = published::of(&network.name);
        Ok(Row {
            title: published.map_or(network.name.clone(), |published| published.title.into()),
            size: network.size,
            parameters: summary.parameters(),
            multiply_adds: summary.multiply_adds(),
            activation_bytes: summary.activation_bytes(),
            times: Vec::new(),
            paper: published.and_then(|published| published.paper),
            remark: published.and_then(|published| published.remark),
            timm: published.and_then(|published| published.timm),
        })
    }

    /// The time in a type, if it was measured.
    pub fn ms(&self, dtype: Dtype) -> Option<f64> {
        self.times.iter().find(|(measured, _)| *measured == dtype).map(|(_, ms)| *ms)
    }
}
