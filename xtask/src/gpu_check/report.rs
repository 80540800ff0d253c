//! The results of a check, as Markdown and as JSON.

use super::check::Check;
use super::gpu::{self, Launches};
use super::grouped::GroupedSpeed;
use super::measured::Measured;
use super::network_speed::NetworkSpeed;
use super::part::Part;
use super::peer::{Mode, PYTORCH};
use super::training_run::Losses;
use crate::device_arg::{DeviceName, opened_name};
use crate::plural::counted;
use crate::text_table::Table;
use anyhow::Result;
use candle_core::Device;
use resnext_train::checkpoint::replace_file;
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;

/// A speed to reach.
#[derive(Serialize)]
pub struct Goal {
    pub what: String,
    /// The least ratio of our speed to the other engine's.
    pub wanted: f64,
    /// The smallest ratio that was measured; `None` if one of the engines was not measured.
    pub measured: Option<f64>,
}

#[derive(Serialize)]
pub struct GpuReport {
    /// Whether every check passed and no part failed. Speeds are not checks.
    pub green: bool,
    /// The parts that have ended.
    pub parts: Vec<Part>,
    /// The parts that could not be completed, with the reason.
    pub failed: Vec<String>,
    pub device: String,
    pub name: Option<String>,
    pub version: &'static str,
    pub peer: Option<String>,
    pub checks: Vec<Check>,
    pub losses: Losses,
    /// The memory's bandwidth, in bytes per second.
    pub bandwidth: Option<f64>,
    pub grouped: Vec<GroupedSpeed>,
    pub training: Vec<NetworkSpeed>,
    pub inference: Vec<NetworkSpeed>,
    /// What could not be measured, with the reason.
    pub missing: Vec<String>,
    /// The launches of one training step in bf16 mixed precision.
    pub launches: Option<Vec<Launches>>,
    #[serde(rename = "bars")]
    pub goals: Vec<Goal>,
    /// The Markdown file.
    #[serde(skip)]
    pub markdown: PathBuf,
    /// The JSON file.
    #[serde(skip)]
    pub json: PathBuf,
}

impl GpuReport {
    /// A report that [`save`](Self::save) writes to the file `markdown`, and as JSON to `json`.
    pub fn new(device: &Device, wanted: DeviceName, markdown: PathBuf, json: PathBuf) -> Result<Self> {
        Ok(GpuReport {
            green: false,
            parts: Vec::new(),
            failed: Vec::new(),
            device: opened_name(device, wanted),
            name: gpu::name(device)?,
            version: env!("CARGO_PKG_VERSION"),
            peer: None,
            checks: Vec::new(),
            losses: Losses::default(),
            bandwidth: None,
            grouped: Vec::new(),
            training: Vec::new(),
            inference: Vec::new(),
            missing: Vec::new(),
            launches: None,
            goals: Vec::new(),
            markdown,
            json,
        })
    }

    /// Decides whether the device passed so far, compares speeds with their goals, and writes both files.
    pub fn save(&mut self) -> Result<()> {
        self.settle();
        replace_file(&self.markdown, self.to_markdown()?.as_bytes())?;
        replace_file(&self.json, serde_json::to_string_pretty(self)?.as_bytes())?;
        Ok(())
    }

    /// Adds a speed to one of the lists, or what is missing, and saves the report.
    pub fn add<T>(
        &mut self,
        measured: Measured<T>,
        list: impl FnOnce(&mut Self) -> &mut Vec<T>,
    ) -> Result<()> {
        match measured {
            Measured::Speed(speed) => list(self).push(speed),
            Measured::Missing(what) => self.missing.push(what),
        }
        self.save()
    }

    fn settle(&mut self) {
        self.green = self.failed.is_empty() && self.checks.iter().all(|check| check.passed);
        let (candle, pytorch) = ("candle", PYTORCH);
        let both = |g: &GroupedSpeed| g.forward_ms + g.gradients_ms;
        let goal = |what: &str, wanted: f64, measured| Goal { what: what.into(), wanted, measured };
        self.goals = vec![
            goal("grouped 3×3 beside candle, forward", 10.0, self.least(candle, |g| g.forward_ms, |_| true)),
            goal(
                "grouped 3×3 beside candle, gradients",
                10.0,
                self.least(candle, |g| g.gradients_ms, |_| true),
            ),
            goal(
                "grouped 3×3 beside PyTorch, forward and gradients",
                1.0,
                self.least(pytorch, both, |_| true),
            ),
            goal(
                "the same with 4 or 8 channels per group, in bf16",
                2.0,
                self.least(pytorch, both, |g| g.channels <= 256 && g.dtype == "bf16"),
            ),
        ];
        for (what, speeds, precision, modes) in [
            (
                "training",
                &self.training,
                "bf16 AMP",
                [(Mode::Eager, 1.1), (Mode::Graph, 1.0), (Mode::Compiled, 1.2)].as_slice(),
            ),
            ("inference", &self.inference, "bf16", &[(Mode::Compiled, 1.0)]),
        ] {
            let ours = speeds.iter().filter(|s| s.engine == "ours" && s.precision == precision);
            for (own, &(mode, wanted)) in ours.flat_map(|own| modes.iter().map(move |mode| (own, mode))) {
                let same = |s: &&NetworkSpeed| {
                    (&s.network, s.batch, &s.precision) == (&own.network, own.batch, &own.precision)
                        && s.engine == mode.engine()
                };
                let (network, batch, engine) = (&own.network, own.batch, mode.engine());
                let what = format!("{what} of {network}, batch {batch}, {precision}, beside {engine}");
                let measured = speeds.iter().find(same).map(|theirs| theirs.ms / own.ms);
                self.goals.push(Goal { what, wanted, measured });
            }
        }
    }

    /// The smallest ratio of another engine's time to the best of ours, over the convolutions that count.
    fn least(
        &self,
        other: &str,
        ms: impl Fn(&GroupedSpeed) -> f64,
        counts: impl Fn(&GroupedSpeed) -> bool,
    ) -> Option<f64> {
        let same = |a: &GroupedSpeed, b: &GroupedSpeed| {
            (a.channels, a.side, &a.dtype) == (b.channels, b.side, &b.dtype)
        };
        let ratio = |theirs: &GroupedSpeed| {
            let ours = self
                .grouped
                .iter()
                .filter(|own| same(own, theirs) && ["ours", "cuDNN"].contains(&&*own.engine));
            Some(ms(theirs) / ours.map(&ms).reduce(f64::min)?)
        };
        self.grouped.iter().filter(|g| g.engine == other && counts(g)).filter_map(ratio).reduce(f64::min)
    }

    /// The verdict and the checks that failed.
    pub fn summary(&self) -> String {
        let failed: Vec<&Check> = self.checks.iter().filter(|check| !check.passed).collect();
        let mut text = match failed.len() {
            0 if self.checks.is_empty() => format!("nothing was checked on {}\n", self.device),
            0 => format!("green: {} passed on {}\n", counted(self.checks.len(), "check"), self.device),
            n => format!("not green: {n} of {} checks failed on {}\n", self.checks.len(), self.device),
        };
        for check in failed {
            let Check { what, case, dtype, worst, bound, .. } = check;
            text += &format!("  {what}, {case}, {dtype}: {worst:.2e} is above the bound of {bound:.0e}\n");
        }
        self.failed.iter().for_each(|reason| text += &format!("failed: {reason}\n"));
        text
    }

    fn to_markdown(&self) -> Result<String> {
        let name = self.name.as_ref().map(|name| format!(", {name}")).unwrap_or_default();
        let mut text = format!("# gpu-check\n\nresnext {} on {}{name}.\n\n", self.version, self.device);
        let parts: Vec<String> = self.parts.iter().map(ToString::to_string).collect();
        writeln!(text, "Parts that have ended: {}.\n", parts.join(", "))?;
        writeln!(text, "{}", self.summary())?;
        writeln!(text, "## Speed\n\n{}", self.goal_table().to_markdown())?;
        self.write_grouped(&mut text)?;
        writeln!(text, "## Training steps\n\n{}", network_table(&self.training).to_markdown())?;
        writeln!(text, "## Inference\n\n{}", network_table(&self.inference).to_markdown())?;
        if !self.missing.is_empty() {
            writeln!(text, "## Not measured\n")?;
            self.missing.iter().try_for_each(|what| writeln!(text, "- {what}"))?;
            writeln!(text)?;
        }
        if self.peer.is_none() {
            writeln!(text, "PyTorch was not measured, because --python was not given.\n")?;
        }
        self.write_launches(&mut text)?;
        writeln!(text, "## Losses of the training run\n\n{}", self.loss_table().to_markdown())?;
        write!(text, "## Checks\n\n{}", self.check_table().to_markdown())?;
        Ok(text)
    }

    fn goal_table(&self) -> Table {
        let mut table = Table::new(&["speed beside another engine", "wanted", "least measured"]);
        for goal in &self.goals {
            let measured = goal.measured.map_or("not measured".into(), |times| format!("{times:.2}×"));
            table.row(vec![goal.what.clone(), format!("{}×", goal.wanted), measured]);
        }
        table
    }

    fn write_grouped(&self, text: &mut String) -> Result<()> {
        writeln!(text, "## Grouped 3×3 convolutions, 32 groups\n")?;
        if let Some(bandwidth) = self.bandwidth {
            let gb = bandwidth / 1e9;
            writeln!(text, "Shares are of {gb:.0} GB/s, the bandwidth of a copy measured in this run.\n")?;
        }
        let mut table = Table::new(&[
            "map",
            "batch",
            "type",
            "engine",
            "forward ms",
            "of bandwidth",
            "gradients ms",
            "of bandwidth",
        ]);
        for grouped in &self.grouped {
            let share = |share: f64| format!("{:.0} %", 100.0 * share);
            table.row(vec![
                format!("{}×{}×{1}", grouped.channels, grouped.side),
                grouped.batch.to_string(),
                grouped.dtype.clone(),
                grouped.engine.clone(),
                format!("{:.3}", grouped.forward_ms),
                share(grouped.forward_share),
                format!("{:.3}", grouped.gradients_ms),
                share(grouped.gradients_share),
            ]);
        }
        writeln!(text, "{}", table.to_markdown())?;
        Ok(())
    }

    fn write_launches(&self, text: &mut String) -> Result<()> {
        writeln!(text, "## Kernel launches of one training step, bf16 AMP\n")?;
        let Some(launches) = &self.launches else {
            writeln!(text, "Not counted: this takes a build with CUDA, and a CUDA device.\n")?;
            return Ok(());
        };
        writeln!(text, "{} in total.\n", launches.iter().map(|l| l.count).sum::<usize>())?;
        let mut table = Table::new(&["launches", "kernel"]);
        launches.iter().for_each(|l| table.row(vec![l.count.to_string(), l.name.clone()]));
        writeln!(text, "{}", table.to_markdown())?;
        Ok(())
    }

    fn loss_table(&self) -> Table {
        let mut table = Table::new(&["step", "CPU, f32", "device, f32", "device, bf16 AMP"]);
        let losses = self.losses.cpu.iter().zip(&self.losses.device).zip(&self.losses.device_bf16);
        for (i, ((cpu, device), half)) in losses.enumerate() {
            let loss = |loss: &f64| format!("{loss:.5}");
            table.row(vec![(i + 1).to_string(), loss(cpu), loss(device), loss(half)]);
        }
        table
    }

    fn check_table(&self) -> Table {
        let mut table = Table::new(&["check", "case", "type", "worst", "bound", "passed"]);
        for check in &self.checks {
            let passed = if check.passed { "yes" } else { "NO" };
            table.row(vec![
                check.what.clone(),
                check.case.clone(),
                check.dtype.clone(),
                format!("{:.2e}", check.worst),
                format!("{:.0e}", check.bound),
                passed.into(),
            ]);
        }
        table
    }
}

fn network_table(speeds: &[NetworkSpeed]) -> Table {
    let mut table = Table::new(&["network", "images", "precision", "engine", "ms", "images/s"]);
    for speed in speeds {
        table.row(vec![
            speed.network.clone(),
            format!("{} of {}×{1}", speed.batch, speed.side),
            speed.precision.clone(),
            speed.engine.clone(),
            format!("{:.2}", speed.ms),
            format!("{:.1}", speed.images_per_s),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::sizes::NetworkCase;
    use super::*;
    use candle_core::DType;

    fn grouped(engine: &str, forward_ms: f64, gradients_ms: f64) -> GroupedSpeed {
        GroupedSpeed {
            channels: 256,
            side: 28,
            batch: 64,
            dtype: "bf16".into(),
            engine: engine.into(),
            forward_ms,
            gradients_ms,
            forward_share: 0.5,
            gradients_share: 0.25,
        }
    }

    const CASE: NetworkCase = NetworkCase { network: "resnext50_32x4d", batch: 64, side: 224 };

    fn report() -> GpuReport {
        let mut report =
            GpuReport::new(&Device::Cpu, DeviceName::Cpu, "a.md".into(), "a.json".into()).unwrap();
        report.checks = vec![Check::at_most("conv2d", "3×3, 32 groups", DType::F32, 1e-6, 2e-5)];
        report.losses = Losses { cpu: vec![2.3], device: vec![2.30001], device_bf16: vec![2.31] };
        report.bandwidth = Some(2e12);
        report.peer = Some("PyTorch 2.9".into());
        report.grouped = vec![
            grouped("ours", 2.0, 4.0),
            grouped("cuDNN", 1.0, 5.0),
            grouped("candle", 20.0, 40.0),
            grouped("PyTorch", 3.0, 6.0),
        ];
        report.parts = vec![Part::Operations, Part::Training];
        report.training = [("ours", 711.11), ("PyTorch", 640.0), ("torch.compile", 500.0)]
            .map(|(engine, ms)| NetworkSpeed::new(&CASE, engine, "bf16 AMP", ms))
            .into();
        report.inference = [("ours", 20.0), ("torch.compile", 30.0)]
            .map(|(engine, ms)| NetworkSpeed::new(&CASE, engine, "bf16", ms))
            .into();
        report.missing = vec!["PyTorch, CUDA graph: no capture".into()];
        report.launches = Some(vec![Launches { name: "conv2d".into(), count: 53 }]);
        report.settle();
        report
    }

    #[test]
    fn speeds_are_those_of_our_fastest_route() {
        let measured: Vec<String> = report()
            .goals
            .iter()
            .map(|goal| goal.measured.map_or("none".into(), |times| format!("{times:.2}")))
            .collect();
        // Convolutions; training beside PyTorch, a CUDA graph and torch.compile; inference beside torch.compile.
        assert_eq!(measured, ["20.00", "10.00", "1.50", "1.50", "0.90", "none", "0.70", "1.50"]);
    }

    #[test]
    fn a_failed_check_is_named() {
        let mut report = report();
        assert_eq!(report.summary(), "green: 1 check passed on cpu\n");
        report.checks.push(Check::at_most("relu", "[2, 32]", DType::BF16, f64::NAN, 0.5));
        report.settle();
        let expected =
            "not green: 1 of 2 checks failed on cpu\n  relu, [2, 32], bf16: NaN is above the bound of 5e-1\n";
        assert_eq!((report.green, report.summary().as_str()), (false, expected));
    }

    #[test]
    fn a_part_that_fails_is_named() {
        let mut report = report();
        report.failed.push("inference: out of memory".into());
        report.settle();
        assert!(!report.green && report.summary().ends_with("failed: inference: out of memory\n"));
    }

    #[test]
    fn the_page_has_a_table_per_section() {
        let page = report().to_markdown().unwrap();
        let row = |cells: &[&str]| {
            let found = page.lines().find(|line| {
                let own: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
                own == cells
            });
            assert!(found.is_some(), "{cells:?} in\n{page}");
        };
        row(&["grouped 3×3 beside candle, forward", "10×", "20.00×"]);
        row(&["256×28×28", "64", "bf16", "cuDNN", "1.000", "50 %", "5.000", "25 %"]);
        row(&["resnext50_32x4d", "64 of 224×224", "bf16 AMP", "ours", "711.11", "90.0"]);
        row(&["53", "conv2d"]);
        row(&["1", "2.30000", "2.30001", "2.31000"]);
        row(&["conv2d", "3×3, 32 groups", "f32", "1.00e-6", "2e-5", "yes"]);
        row(&["resnext50_32x4d", "64 of 224×224", "bf16", "torch.compile", "30.00", "2133.3"]);
        assert!(page.contains("Parts that have ended: operations, training.\n"), "{page}");
        assert!(page.contains("## Not measured\n\n- PyTorch, CUDA graph: no capture\n"), "{page}");
        assert_eq!(page.matches("\n## ").count(), 8);
        // A blank line before and after every heading, and none at the end.
        assert!(!page.contains("\n\n\n") && page.ends_with("|\n"), "{page}");
    }
}
