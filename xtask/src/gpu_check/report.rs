//! The results of a check, as Markdown and as JSON.

use super::check::Check;
use super::gpu::{self, Launches};
use super::grouped::GroupedSpeed;
use super::training_run::Losses;
use super::training_steps::StepSpeed;
use crate::device_arg::{DeviceName, opened_name};
use crate::plural::counted;
use crate::text_table::Table;
use anyhow::Result;
use candle_core::Device;
use resnext_train::checkpoint::replace_file;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

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
    /// Whether every check passed. Speeds are not checks.
    pub green: bool,
    pub device: String,
    pub name: Option<String>,
    pub version: &'static str,
    pub peer: Option<String>,
    pub checks: Vec<Check>,
    pub losses: Losses,
    /// The memory's bandwidth, in bytes per second.
    pub bandwidth: Option<f64>,
    pub grouped: Vec<GroupedSpeed>,
    /// The grouped convolutions that could not be measured, with the reason.
    pub missing: Vec<String>,
    pub steps: Vec<StepSpeed>,
    /// The launches of one training step in bf16 mixed precision.
    pub launches: Option<Vec<Launches>>,
    #[serde(rename = "bars")]
    pub goals: Vec<Goal>,
}

impl GpuReport {
    pub fn new(device: &Device, wanted: DeviceName) -> Result<Self> {
        Ok(GpuReport {
            green: false,
            device: opened_name(device, wanted),
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
            goals: Vec::new(),
        })
    }

    /// Decides whether the device passed, and compares speeds with their goals.
    pub fn settle(&mut self) {
        self.green = !self.checks.is_empty() && self.checks.iter().all(|check| check.passed);
        let (candle, pytorch) = ("candle", "PyTorch channels-last");
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
            goal("training images/s beside PyTorch, bf16 AMP", 0.8, self.training(pytorch)),
        ];
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

    /// The ratio of our training images per second to another engine's.
    fn training(&self, peer: &str) -> Option<f64> {
        let of = |engine: &str| {
            let own = |steps: &&StepSpeed| steps.engine == engine && steps.precision == "bf16 AMP";
            self.steps.iter().find(own).map(|steps| steps.images_per_s)
        };
        Some(of("ours")? / of(peer)?)
    }

    pub fn write(&self, markdown: &Path, json: &Path) -> Result<()> {
        replace_file(markdown, self.to_markdown()?.as_bytes())?;
        replace_file(json, serde_json::to_string_pretty(self)?.as_bytes())?;
        Ok(())
    }

    /// The verdict and the checks that failed.
    pub fn summary(&self) -> String {
        let failed: Vec<&Check> = self.checks.iter().filter(|check| !check.passed).collect();
        let mut text = match failed.len() {
            0 => format!("green: {} passed on {}\n", counted(self.checks.len(), "check"), self.device),
            n => format!("not green: {n} of {} checks failed on {}\n", self.checks.len(), self.device),
        };
        for check in failed {
            let Check { what, case, dtype, worst, bound, .. } = check;
            text += &format!("  {what}, {case}, {dtype}: {worst:.2e} is above the bound of {bound:.0e}\n");
        }
        text
    }

    fn to_markdown(&self) -> Result<String> {
        let name = self.name.as_ref().map(|name| format!(", {name}")).unwrap_or_default();
        let mut text = format!("# gpu-check\n\nresnext {} on {}{name}.\n\n", self.version, self.device);
        writeln!(text, "{}", self.summary())?;
        writeln!(text, "## Speed\n\n{}", self.goal_table().to_markdown())?;
        self.write_grouped(&mut text)?;
        writeln!(text, "## Training steps\n\n{}", self.step_table().to_markdown())?;
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
        if !self.missing.is_empty() {
            writeln!(text, "Not measured:\n")?;
            self.missing.iter().try_for_each(|what| writeln!(text, "- {what}"))?;
            writeln!(text)?;
        }
        Ok(())
    }

    fn step_table(&self) -> Table {
        let mut table = Table::new(&["network", "images", "precision", "engine", "step ms", "images/s"]);
        for step in &self.steps {
            table.row(vec![
                step.network.clone(),
                format!("{} of {}×{1}", step.batch, step.side),
                step.precision.clone(),
                step.engine.clone(),
                format!("{:.2}", step.step_ms),
                format!("{:.1}", step.images_per_s),
            ]);
        }
        table
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

#[cfg(test)]
mod tests {
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

    fn steps(engine: &str, images_per_s: f64) -> StepSpeed {
        StepSpeed {
            network: "resnext50_32x4d".into(),
            batch: 64,
            side: 224,
            engine: engine.into(),
            precision: "bf16 AMP".into(),
            step_ms: 64e3 / images_per_s,
            images_per_s,
        }
    }

    fn report() -> GpuReport {
        let mut report = GpuReport::new(&Device::Cpu, DeviceName::Cpu).unwrap();
        report.checks = vec![Check::at_most("conv2d", "3×3, 32 groups", DType::F32, 1e-6, 2e-5)];
        report.losses = Losses { cpu: vec![2.3], device: vec![2.30001], device_bf16: vec![2.31] };
        report.bandwidth = Some(2e12);
        report.peer = Some("PyTorch 2.9".into());
        report.grouped = vec![
            grouped("ours", 2.0, 4.0),
            grouped("cuDNN", 1.0, 5.0),
            grouped("candle", 20.0, 40.0),
            grouped("PyTorch channels-last", 3.0, 6.0),
        ];
        report.steps = vec![steps("ours", 90.0), steps("PyTorch channels-last", 100.0)];
        report.launches = Some(vec![Launches { name: "conv2d".into(), count: 53 }]);
        report.settle();
        report
    }

    #[test]
    fn speeds_are_those_of_our_fastest_route() {
        let measured: Vec<f64> = report().goals.iter().map(|goal| goal.measured.unwrap()).collect();
        assert_eq!(measured, [20.0, 10.0, 1.5, 1.5, 0.9]);
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
        assert_eq!(page.matches("\n## ").count(), 6);
        // A blank line before and after every heading, and none at the end.
        assert!(!page.contains("\n\n\n") && page.ends_with("|\n"), "{page}");
    }
}
