//! The results of a benchmark of inference, as tables.

use crate::bench::grouped::{self, GroupedTimes, Pass};
use crate::bench::stats::{our_speed, quantile};
use crate::dtype_arg::Dtype;
use crate::plural::counted;
use crate::text_table::Table;
use resnext_model::Summary;
use serde::Serialize;
use std::fmt::{self, Display, Formatter};

#[derive(Serialize)]
pub struct InferenceReport {
    pub model: String,
    pub size: usize,
    pub threads: usize,
    pub rounds: usize,
    pub instructions: &'static str,
    /// The peak of fused multiply-adds in f32, measured in this run.
    pub peak_gflops: f64,
    /// The bandwidth of reading memory, in GB/s.
    pub bandwidth_gb: f64,
    /// The engines; ours comes first.
    pub contestants: Vec<Contestant>,
    pub layers: Vec<Layer>,
    /// The times of grouped 3×3 convolutions alone, beside PyTorch's.
    pub grouped: Vec<GroupedTimes>,
}

#[derive(Serialize)]
pub struct Contestant {
    pub engine: String,
    pub version: String,
    pub precision: String,
    pub timings: Vec<Timing>,
    /// The most memory resident at batch 1, in MiB.
    pub peak_mb: f64,
    /// Seconds from the start of the process.
    pub first_logits_s: f64,
    /// The largest difference from our logits, relative to the largest of ours.
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
    /// The share of the measured peak, from 0 to 1.
    pub share_of_peak: f64,
}

impl Timing {
    /// `ms`: forward passes of `batch` images; `peak`: operations per second.
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

/// The limits of this machine, measured.
pub struct Roofline {
    /// Operations per second for each of [`Dtype::ALL`], where the machine has instructions for it.
    peaks: [Option<f64>; Dtype::ALL.len()],
    /// Bytes read per second.
    pub bandwidth: f64,
}

impl Roofline {
    pub fn measure() -> Self {
        let peaks = Dtype::ALL.map(|dtype| resnext_ops::fma_peak(dtype.into()));
        Roofline { peaks, bandwidth: resnext_ops::read_bandwidth() }
    }

    /// The peak in operations per second, NaN where it is unknown.
    pub fn peak(&self, precision: &str) -> f64 {
        let place = Dtype::ALL.iter().position(|dtype| dtype.name() == precision);
        place.and_then(|i| self.peaks[i]).unwrap_or(f64::NAN)
    }
}

#[derive(Serialize)]
pub struct Layer {
    pub name: String,
    pub kind: String,
    pub median_ms: f64,
    pub gflops: f64,
    /// The least time the hardware allows: the longer of the layer's multiply-adds at the peak and reading
    /// its weights at the memory's bandwidth.
    pub floor_ms: f64,
}

impl Layer {
    /// `ms`: times of the layer, which computes in `dtype`.
    pub fn new(name: String, ms: &[f64], dtype: Dtype, summary: &Summary, roofline: &Roofline) -> Self {
        let layer = summary.layers.iter().find(|layer| layer.name == name);
        let flops = layer.map_or(0.0, |layer| 2.0 * layer.multiply_adds as f64);
        let bytes = layer.map_or(0.0, |layer| dtype.bytes() as f64 * layer.parameters as f64);
        let kind = layer.map(|layer| layer.kind.clone()).unwrap_or_default();
        let median_ms = quantile(ms, 0.5);
        let floor_ms = (flops / roofline.peak(dtype.name())).max(bytes / roofline.bandwidth) * 1e3;
        Layer { name, kind, median_ms, gflops: flops / median_ms / 1e6, floor_ms }
    }
}

impl InferenceReport {
    fn engine_table(&self) -> Table {
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
                    self.our_speed(contestant, i),
                    format!("{:.0}", contestant.peak_mb),
                    format!("{:.2} s", contestant.first_logits_s),
                    difference(contestant.logits_error),
                ]);
            }
        }
        table
    }

    /// Our speed beside a peer's, at its `i`-th batch size and in its precision; empty for ourselves.
    fn our_speed(&self, peer: &Contestant, i: usize) -> String {
        let our_name = &self.contestants[0].engine;
        if peer.engine == *our_name {
            return String::new();
        }
        let same = |c: &&Contestant| c.engine == *our_name && c.precision == peer.precision;
        let ours = self.contestants.iter().find(same);
        ours.map_or("-".into(), |ours| our_speed(ours.timings[i].median_ms, peer.timings[i].median_ms))
    }

    fn layer_table(&self) -> Table {
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
        table
    }
}

/// A relative difference with one digit; `0` if there is none.
fn difference(value: f64) -> String {
    if value == 0.0 { "0".into() } else { format!("{value:.0e}") }
}

impl Display for InferenceReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let InferenceReport { model, size, threads, rounds, instructions, peak_gflops, bandwidth_gb, .. } =
            self;
        writeln!(
            f,
            "{model}, {size}×{size}, {}, {instructions}, {}",
            counted(*threads, "thread"),
            counted(*rounds, "round")
        )?;
        writeln!(f, "this machine: {peak_gflops:.0} GFLOP/s in f32, {bandwidth_gb:.0} GB/s")?;
        write!(f, "{}", self.engine_table().to_text())?;
        if !self.layers.is_empty() {
            write!(f, "\n{}", self.layer_table().to_text())?;
        }
        if !self.grouped.is_empty() {
            write!(f, "\n{}", grouped::table(&self.grouped, Pass::Forward))?;
        }
        Ok(())
    }
}
