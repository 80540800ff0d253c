//! What a bench measured, as tables.

use super::grouped::{self, Grouped, Pass};
use crate::table::Table;
use resnext_model::Summary;
use serde::Serialize;
use std::fmt::{self, Display, Formatter};

#[derive(Serialize)]
pub struct Report {
    pub model: String,
    pub size: usize,
    pub threads: usize,
    pub rounds: usize,
    pub instructions: &'static str,
    /// Of fused multiply-adds in f32, measured in this run.
    pub peak_gflops: f64,
    /// Of reading memory.
    pub bandwidth_gb: f64,
    /// Ours first.
    pub contestants: Vec<Contestant>,
    pub layers: Vec<Layer>,
    /// Grouped 3×3 convolutions by themselves, beside PyTorch's.
    pub grouped: Vec<Grouped>,
}

#[derive(Serialize)]
pub struct Contestant {
    pub engine: String,
    pub version: String,
    pub precision: String,
    pub timings: Vec<Timing>,
    /// MiB, batch 1.
    pub peak_mb: f64,
    /// Seconds from the start of the process.
    pub first_logits_s: f64,
    /// The largest difference to our logits, relative to the largest of them.
    pub logits_error: f64,
}

#[derive(Serialize)]
pub struct Timing {
    pub batch: usize,
    pub median_ms: f64,
    pub p10_ms: f64,
    pub p90_ms: f64,
    pub images_per_s: f64,
    pub gflops: f64,
    /// Of the measured peak, from 0 to 1.
    pub share_of_peak: f64,
}

impl Timing {
    pub fn new(batch: usize, ms: Vec<f64>, summary: &Summary, peak: f64) -> Self {
        let [p10_ms, median_ms, p90_ms] = [0.1, 0.5, 0.9].map(|q| quantile(&ms, q));
        let flops = 2.0 * (summary.multiply_adds() * batch) as f64 / (median_ms / 1e3);
        let images_per_s = batch as f64 / (median_ms / 1e3);
        Timing {
            batch,
            median_ms,
            p10_ms,
            p90_ms,
            images_per_s,
            gflops: flops / 1e9,
            share_of_peak: flops / peak,
        }
    }
}

#[derive(Serialize)]
pub struct Layer {
    pub name: String,
    pub kind: String,
    pub median_ms: f64,
    pub gflops: f64,
    /// The longer of its multiply-adds at the peak and its weights at the memory's bandwidth.
    pub floor_ms: f64,
}

impl Layer {
    /// `limits`: operations and bytes a second, and bytes a weight.
    pub fn new(name: String, ms: Vec<f64>, summary: &Summary, limits: (f64, f64, f64)) -> Self {
        let (peak, bandwidth, size) = limits;
        let layer = summary.layers.iter().find(|layer| layer.name == name);
        let flops = layer.map_or(0.0, |layer| 2.0 * layer.multiply_adds as f64);
        let bytes = layer.map_or(0.0, |layer| size * layer.parameters as f64);
        let kind = layer.map(|layer| layer.kind.clone()).unwrap_or_default();
        let median_ms = quantile(&ms, 0.5);
        let floor_ms = (flops / peak).max(bytes / bandwidth) * 1e3;
        Layer { name, kind, median_ms, gflops: flops / median_ms / 1e6, floor_ms }
    }
}

pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(((sorted.len().max(1) - 1) as f64 * q).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The largest difference, relative to the largest of `ours`.
pub fn difference(theirs: &[f64], ours: &[f64]) -> f64 {
    let largest = ours.iter().fold(0f64, |most, v| most.max(v.abs()));
    theirs.iter().zip(ours).map(|(t, o)| (t - o).abs() / largest).fold(0.0, f64::max)
}

impl Report {
    /// Ours, of a precision.
    fn ours(&self, precision: &str) -> Option<&Contestant> {
        let ours = |c: &&Contestant| c.engine == self.contestants[0].engine && c.precision == precision;
        self.contestants.iter().find(ours)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Report { model, size, threads, rounds, instructions, peak_gflops, bandwidth_gb, .. } = self;
        writeln!(f, "{model}, {size}×{size}, {threads} threads, {instructions}, {rounds} rounds")?;
        writeln!(f, "this machine: {peak_gflops:.0} GFLOP/s, {bandwidth_gb:.0} GB/s")?;
        let mut table = Table::new(&[
            "engine",
            "type",
            "batch",
            "median ms",
            "p10",
            "p90",
            "images/s",
            "GFLOP/s",
            "of peak",
            "ours is",
            "MiB",
            "first logits",
            "logits differ",
        ]);
        for contestant in &self.contestants {
            for (i, timing) in contestant.timings.iter().enumerate() {
                let ours = self.ours(&contestant.precision);
                let ratio = |ours: &Contestant| timing.median_ms / ours.timings[i].median_ms;
                table.row(vec![
                    contestant.engine.clone(),
                    contestant.precision.clone(),
                    timing.batch.to_string(),
                    format!("{:.2}", timing.median_ms),
                    format!("{:.2}", timing.p10_ms),
                    format!("{:.2}", timing.p90_ms),
                    format!("{:.1}", timing.images_per_s),
                    format!("{:.0}", timing.gflops),
                    format!("{:.0} %", 100.0 * timing.share_of_peak),
                    ours.map_or("-".into(), |ours| format!("{:.2}× faster", ratio(ours))),
                    format!("{:.0}", contestant.peak_mb),
                    format!("{:.2} s", contestant.first_logits_s),
                    format!("{:.0e}", contestant.logits_error),
                ]);
            }
        }
        write!(f, "{}", table.show(false))?;
        if !self.layers.is_empty() {
            let mut table = Table::new(&["layer", "kind", "ms", "GFLOP/s", "floor ms", "above floor"]);
            for layer in &self.layers {
                table.row(vec![
                    layer.name.clone(),
                    layer.kind.clone(),
                    format!("{:.3}", layer.median_ms),
                    format!("{:.0}", layer.gflops),
                    format!("{:.3}", layer.floor_ms),
                    format!("{:.3}", layer.median_ms - layer.floor_ms),
                ]);
            }
            write!(f, "\n{}", table.show(false))?;
        }
        if !self.grouped.is_empty() {
            write!(f, "\n{}", grouped::table(&self.grouped, Pass::Forward))?;
        }
        Ok(())
    }
}
