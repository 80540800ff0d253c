//! A network of the comparison, and its row of the table.

use super::measured::Measured;
use super::noise;
use super::published::{self, Errors, Source};
use crate::bench::stats::quantile;
use crate::dtype_arg::Dtype;
use crate::inputs::images;
use anyhow::Result;
use resnext_model::{AnyFused, Architecture};
use std::time::Instant;

/// A network by its name.
pub struct Network {
    pub name: String,
    architecture: Architecture,
}

impl Network {
    /// # Errors
    /// If no network has the name.
    pub fn named(name: &str) -> Result<Self> {
        Ok(Network { name: name.into(), architecture: Architecture::by_name(name)? })
    }

    /// The median time of a forward pass of one image, in milliseconds, of `runs` passes after one that is not
    /// counted.
    pub fn time(&self, dtype: Dtype, runs: usize) -> Result<f64> {
        let network = AnyFused::new(&self.architecture, noise::builder(), dtype.into(), None)?;
        let x = images(1, self.architecture.size())?;
        network.forward(&x)?;
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs {
            let start = Instant::now();
            network.forward(&x)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(quantile(&times, 0.5))
    }
}

/// A network's row in the table.
pub struct Row {
    /// Its name in the paper, or ours.
    pub title: String,
    pub size: usize,
    pub parameters: usize,
    /// Multiply-adds per image.
    pub multiply_adds: usize,
    /// Bytes of all layers' outputs for one image in f32.
    pub activation_bytes: usize,
    /// Milliseconds per image by type; empty if they are not measured.
    pub times: Vec<(Dtype, f64)>,
    /// The error measured here, if there were weights.
    pub measured: Option<Measured>,
    /// Whether there is a list of what is published of the network.
    pub is_listed: bool,
    pub paper: Option<(Errors, Source)>,
    /// How the paper's network differs from this one.
    pub remark: Option<&'static str>,
    pub timm: Option<(Errors, &'static str)>,
}

impl Row {
    /// The row without times and measured errors.
    pub fn new(network: &Network) -> Result<Self> {
        let size = network.architecture.size();
        let summary = network.architecture.summary(size, size)?;
        let published = published::of(&network.name);
        Ok(Row {
            title: published.map_or(network.name.clone(), |published| published.title.into()),
            size,
            parameters: summary.parameters(),
            multiply_adds: summary.multiply_adds(),
            activation_bytes: summary.activation_bytes(),
            times: Vec::new(),
            measured: None,
            is_listed: published.is_some(),
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
