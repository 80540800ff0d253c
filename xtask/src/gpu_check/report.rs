//! What was found, as Markdown and as JSON.

use super::bench::{Grouped, Steps};
use super::gpu::{self, Launches};
use crate::device::DeviceName;
use crate::table::Table;
use anyhow::Result;
use candle_core::{DType, Device};
use resnext_train::checkpoint::replace_file;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// A number that must not be above a bound.
#[derive(Serialize)]
pub struct Check {
    pub what: String,
    pub case: String,
    pub dtype: String,
    pub worst: f64,
    pub bound: f64,
    pub passed: bool,
}

impl Check {
    pub fn at_most(what: &str, case: &str, dtype: DType, worst: f64, bound: f64) -> Self {
        let dtype = format!("{dtype:?}").to_lowercase();
        // In this order NaN fails.
        Check { what: what.into(), case: case.into(), dtype, worst, bound, passed: worst <= bound }
    }
}

/// The loss of every step of the training run.
#[derive(Serialize, Default)]
pub struct Losses {
    pub cpu: Vec<f64>,
    pub device: Vec<f64>,
    pub device_bf16: Vec<f64>,
}

/// A speed that is wanted.
#[derive(Serialize)]
pub struct Bar {
    pub what: String,
    /// Times as fast, at least.
    pub wanted: f64,
    /// The least there was; none where a side of it was not measured.
    pub measured: Option<f64>,
}

#[derive(Serialize)]
pub struct Report {
    /// Whether every check passed. Speeds are not checks.
    pub green: bool,
    pub device: String,
    pub name: Option<String>,
    pub version: &'static str,
    pub peer: Option<String>,
    pub checks: Vec<Check>,
    pub losses: Losses,
    /// Bytes a second.
    pub bandwidth: Option<f64>,
    pub grouped: Vec<Grouped>,
    /// What of these could not be measured, and why.
    pub missing: Vec<String>,
    pub steps: Vec<Steps>,
    /// Of one training step with bf16.
    pub launches: Option<Vec<Launches>>,
    pub bars: Vec<Bar>,
}

impl Report {
    pub fn new(device: &Device, name: DeviceName) -> Result<Self> {
        let kind = match device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        };
        let device_name = if name == DeviceName::Auto { kind.to_string() } else { name.to_string() };
        Ok(Report {
            green: false,
            device: device_name,
            name: gpu::name(device)?,
            version: env!("CARGO_PKG_VERSION"),
            peer: None,
            checks: Vec::new(),
            losses: Losses::default(),
            bandwidth: None,
            grouped: Vec::new(),
            missing: Vec::new(),
            steps: Vec::new(),
            launches: None,
            bars: Vec::new(),
        })
    }

    /// Draws the verdict from what was measured.
    pub fn settle(&mut self) {
        self.green = !self.checks.is_empty() && self.checks.iter().all(|check| check.passed);
        let peer = "PyTorch channels-last";
        self.bars = vec![
            Bar {
                what: "grouped 3×3 beside candle's own, forward".into(),
                wanted: 10.0,
                measured: self.least(|g| g.engine == "candle", |g| g.forward_ms, |_| true),
            },
            Bar {
                what: "grouped 3×3 beside candle's own, gradients".into(),
                wanted: 10.0,
                measured: self.least(|g| g.engine == "candle", |g| g.gradients_ms, |_| true),
            },
            Bar {
                what: "grouped 3×3 beside PyTorch, forward and gradients".into(),
                wanted: 1.0,
                measured: self.least(|g| g.engine == peer, |g| g.forward_ms + g.gradients_ms, |_| true),
            },
            Bar {
                what: "the same, d = 4 and 8 in bf16".into(),
                wanted: 2.0,
                measured: self.least(
                    |g| g.engine == peer,
                    |g| g.forward_ms + g.gradients_ms,
                    |g| g.channels <= 256 && g.dtype == "bf16",
                ),
            },
            Bar {
                what: "training images a second beside PyTorch, bf16 AMP".into(),
                wanted: 0.8,
                measured: self.training(peer),
            },
        ];
    }

    /// How many times as fast as another engine the best of ours is, where it is least so.
    fn least(
        &self,
        other: impl Fn(&Grouped) -> bool,
        ms: impl Fn(&Grouped) -> f64,
        counts: impl Fn(&Grouped) -> bool,
    ) -> Option<f64> {
        let same =
            |a: &Grouped, b: &Grouped| (a.channels, a.side, &a.dtype) == (b.channels, b.side, &b.dtype);
        let ratio = |theirs: &Grouped| {
            let ours = self
                .grouped
                .iter()
                .filter(|own| same(own, theirs) && ["ours", "cuDNN"].contains(&&*own.engine));
            Some(ms(theirs) / ours.map(&ms).reduce(f64::min)?)
        };
        self.grouped.iter().filter(|g| other(g) && counts(g)).filter_map(ratio).reduce(f64::min)
    }

    fn training(&self, peer: &str) -> Option<f64> {
        let of = |engine: &str| {
            let own = |steps: &&Steps| steps.engine == engine && steps.precision == "bf16 AMP";
            self.steps.iter().find(own).map(|steps| steps.images_per_s)
        };
        Some(of("ours")? / of(peer)?)
    }

    pub fn write(&self, markdown: &Path, json: &Path) -> Result<()> {
        replace_file(markdown, self.to_markdown()?.as_bytes())?;
        replace_file(json, serde_json::to_string_pretty(self)?.as_bytes())?;
        Ok(())
    }

    /// The verdict, and what failed.
    pub fn summary(&self) -> String {
        let failed: Vec<&Check> = self.checks.iter().filter(|check| !check.passed).collect();
        let mut text = match failed.len() {
            0 => format!("green: {} checks passed on {}\n", self.checks.len(), self.device),
            n => format!("not green: {n} of {} checks failed on {}\n", self.checks.len(), self.device),
        };
        for check in failed {
            let Check { what, case, dtype, worst, bound, .. } = check;
            text += &format!("  {what}, {case}, {dtype}: {worst:.2e}, at most {bound:.0e} is right\n");
        }
        text
    }

    fn to_markdown(&self) -> Result<String> {
        let mut text = String::new();
        writeln!(text, "# gpu-check\n")?;
        writeln!(
            text,
            "resnext {} on {}{}.",
            self.version,
            self.device,
            self.name.as_ref().map(|n| format!(", {n}")).unwrap_or_default()
        )?;
        writeln!(text, "\n{}", self.summary())?;

        writeln!(text, "## Speed wanted\n")?;
        let mut table = Table::new(&["what", "wanted", "least measured"]);
        for bar in &self.bars {
            let measured = bar.measured.map_or("not measured".into(), |times| format!("{times:.2}×"));
            table.row(vec![bar.what.clone(), format!("{}×", bar.wanted), measured]);
        }
        text += &table.show(true);

        writeln!(text, "\n## Grouped 3×3, 32 groups\n")?;
        if let Some(bandwidth) = self.bandwidth {
            writeln!(text, "Shares are of {:.0} GB/s, a copy's in this run.\n", bandwidth / 1e9)?;
        }
        let mut table = Table::new(&[
            "map",
            "batch",
            "type",
            "engine",
            "forward ms",
            "of memory",
            "gradients ms",
            "of memory",
        ]);
        for g in &self.grouped {
            let share = |share: f64| format!("{:.0} %", 100.0 * share);
            table.row(vec![
                format!("{}×{}²", g.channels, g.side),
                g.batch.to_string(),
                g.dtype.clone(),
                g.engine.clone(),
                format!("{:.3}", g.forward_ms),
                share(g.forward_share),
                format!("{:.3}", g.gradients_ms),
                share(g.gradients_share),
            ]);
        }
        text += &table.show(true);
        if !self.missing.is_empty() {
            writeln!(text, "\nNot measured:\n")?;
            self.missing.iter().try_for_each(|what| writeln!(text, "- {what}"))?;
        }

        writeln!(text, "\n## Training steps\n")?;
        let mut table = Table::new(&["network", "images", "precision", "engine", "step ms", "images/s"]);
        for s in &self.steps {
            table.row(vec![
                s.network.clone(),
                format!("{} of {}²", s.batch, s.side),
                s.precision.clone(),
                s.engine.clone(),
                format!("{:.2}", s.step_ms),
                format!("{:.1}", s.images_per_s),
            ]);
        }
        text += &table.show(true);
        if self.peer.is_none() {
            writeln!(text, "\nPyTorch was not measured: no --python.")?;
        }

        writeln!(text, "\n## Launches of one training step, bf16 AMP\n")?;
        match &self.launches {
            None => writeln!(text, "Not counted: only a build for CUDA counts them, on CUDA.")?,
            Some(launches) => {
                writeln!(text, "{} in all.\n", launches.iter().map(|l| l.count).sum::<usize>())?;
                let mut table = Table::new(&["launches", "of"]);
                launches.iter().for_each(|l| table.row(vec![l.count.to_string(), l.name.clone()]));
                text += &table.show(true);
            }
        }

        writeln!(text, "\n## Losses of the training run\n")?;
        let mut table = Table::new(&["step", "cpu, f32", "device, f32", "device, bf16 AMP"]);
        let losses = self.losses.cpu.iter().zip(&self.losses.device).zip(&self.losses.device_bf16);
        for (i, ((cpu, device), half)) in losses.enumerate() {
            table.row(vec![
                (i + 1).to_string(),
                format!("{cpu:.5}"),
                format!("{device:.5}"),
                format!("{half:.5}"),
            ]);
        }
        text += &table.show(true);

        writeln!(text, "\n## Checks\n")?;
        let mut table = Table::new(&["check", "case", "type", "worst", "bound", "passed"]);
        for c in &self.checks {
            let passed = if c.passed { "yes" } else { "NO" };
            table.row(vec![
                c.what.clone(),
                c.case.clone(),
                c.dtype.clone(),
                format!("{:.2e}", c.worst),
                format!("{:.0e}", c.bound),
                passed.into(),
            ]);
        }
        text += &table.show(true);
        Ok(text)
    }
}
