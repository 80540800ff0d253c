//! The results of a benchmark of training, as tables.

use super::step::{COMPARED, PARTS};
use crate::bench::engine::Engine;
use crate::bench::grouped::{self, GroupedTimes, Pass};
use crate::bench::stats::{our_speed, quantile};
use crate::plural::counted;
use crate::text_table::Table;
use serde::Serialize;
use std::fmt::{self, Display, Formatter};

/// The largest relative difference between the losses of engines that compute the same.
const SAME: f64 = 1e-4;

#[derive(Serialize)]
pub struct TrainingReport {
    pub model: String,
    pub size: usize,
    pub batch: usize,
    pub threads: usize,
    pub rounds: usize,
    pub instructions: &'static str,
    pub grad_checkpoint: bool,
    pub peak_gflops: f64,
    /// The engines; ours comes first.
    pub engines: Vec<Measured>,
    /// The median time, in milliseconds, of each part of a step that a fused operation did.
    pub layers: Vec<(String, f64)>,
    /// The times of grouped 3×3 convolutions alone, if the network has any.
    pub grouped: Vec<GroupedTimes>,
}

/// One engine's steps. Times are medians in milliseconds.
#[derive(Serialize)]
pub struct Measured {
    engine: String,
    precision: String,
    version: String,
    step_ms: f64,
    step_p10_ms: f64,
    step_p90_ms: f64,
    forward_ms: f64,
    backward_ms: f64,
    optimizer_ms: f64,
    /// The time until the loader's next batch.
    wait_ms: f64,
    images_per_s: f64,
    /// Counts three times the forward pass's multiply-adds.
    gflops: f64,
    peak_mb: f64,
    losses: Vec<f64>,
    /// The largest relative difference between these losses and ours.
    loss_error: f64,
}

impl Measured {
    /// `times`: milliseconds of each of [`PARTS`], one per round; `flops`: operations per step.
    pub fn new(
        engine: &Engine,
        times: &[Vec<f64>; PARTS.len()],
        losses: Vec<f64>,
        our_losses: &[f64],
        batch: usize,
        flops: f64,
        peak_mb: f64,
    ) -> Self {
        let steps: Vec<f64> = (0..times[0].len()).map(|r| times.iter().map(|part| part[r]).sum()).collect();
        let [step_p10_ms, step_ms, step_p90_ms] = [0.1, 0.5, 0.9].map(|q| quantile(&steps, q));
        let [forward_ms, backward_ms, optimizer_ms, wait_ms] = times.each_ref().map(|ms| quantile(ms, 0.5));
        let errors = losses.iter().zip(our_losses).map(|(a, b)| (a / b - 1.0).abs());
        let loss_error = errors.fold(0.0, f64::max);
        Measured {
            engine: engine.name.clone(),
            precision: engine.precision.clone(),
            version: engine.version.clone(),
            step_ms,
            step_p10_ms,
            step_p90_ms,
            forward_ms,
            backward_ms,
            optimizer_ms,
            wait_ms,
            images_per_s: batch as f64 / step_ms * 1e3,
            gflops: flops / step_ms / 1e6,
            peak_mb,
            losses,
            loss_error,
        }
    }
}

impl TrainingReport {
    fn engine_table(&self) -> Table {
        let mut table = Table::new(&[
            "engine",
            "type",
            "step ms",
            "p10",
            "p90",
            "forward",
            "backward",
            "optimizer",
            "wait",
            "images/s",
            "GFLOP/s",
            "of peak",
            "ours is",
            "MiB",
            "loss 3",
            "losses differ",
        ]);
        let ours = &self.engines[0];
        for engine in &self.engines {
            let ms = |v: f64| format!("{v:.1}");
            let is_ours = engine.engine == ours.engine;
            table.row(vec![
                engine.engine.clone(),
                engine.precision.clone(),
                ms(engine.step_ms),
                ms(engine.step_p10_ms),
                ms(engine.step_p90_ms),
                ms(engine.forward_ms),
                ms(engine.backward_ms),
                ms(engine.optimizer_ms),
                ms(engine.wait_ms),
                format!("{:.1}", engine.images_per_s),
                format!("{:.0}", engine.gflops),
                format!("{:.0} %", 100.0 * engine.gflops / self.peak_gflops),
                if is_ours { String::new() } else { our_speed(ours.step_ms, engine.step_ms) },
                format!("{:.0}", engine.peak_mb),
                engine.losses.last().map(|loss| format!("{loss:.5}")).unwrap_or_default(),
                if engine.loss_error == 0.0 { "0".into() } else { format!("{:.0e}", engine.loss_error) },
            ]);
        }
        table
    }

    /// Whether another engine's losses are those of the same computation, as a sentence.
    fn verdict(&self, other: &Measured) -> String {
        let Measured { engine, precision, loss_error, .. } = other;
        let ours = &self.engines[0];
        let bound = match (*precision == ours.precision, *loss_error <= SAME) {
            (false, _) => String::new(),
            (true, true) => format!(", within the bound of {SAME:.0e}"),
            (true, false) => format!(", NOT within the bound of {SAME:.0e}"),
        };
        format!(
            "{engine} in {precision}: the losses of {COMPARED} steps differ from ours in {} by at most \
             {loss_error:.1e}, relative{bound}",
            ours.precision
        )
    }

    fn layer_table(&self) -> Table {
        let mut table = Table::new(&["layer", "ms"]);
        self.layers.iter().for_each(|(name, ms)| table.row(vec![name.clone(), format!("{ms:.2}")]));
        table
    }
}

impl Display for TrainingReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let TrainingReport { model, size, batch, threads, rounds, instructions, peak_gflops, .. } = self;
        writeln!(
            f,
            "training {model}, {size}×{size}, batch {batch}, {}, {instructions}, {}",
            counted(*threads, "thread"),
            counted(*rounds, "round")
        )?;
        writeln!(f, "this machine: {peak_gflops:.0} GFLOP/s in f32")?;
        write!(f, "{}", self.engine_table().to_text())?;
        for other in &self.engines[1..] {
            writeln!(f, "{}", self.verdict(other))?;
        }
        if !self.grouped.is_empty() {
            write!(f, "\n{}", grouped::table(&self.grouped, Pass::ForwardBackward))?;
        }
        if !self.layers.is_empty() {
            write!(f, "\n{}", self.layer_table().to_text())?;
        }
        Ok(())
    }
}
