//! `cargo xtask gpu-check`: checks every operation on a GPU and measures its speed, in one run.

mod args;
mod check;
mod gpu;
mod grouped;
mod ops;
mod peer;
mod proof;
mod report;
mod sizes;
mod timing;
mod training_run;
mod training_steps;

use crate::device_arg::DeviceName;
use anyhow::{Context, Result, bail, ensure};
pub use args::Args;
use report::GpuReport;
use sizes::{FULL, SMALL};
use std::process::ExitCode;

pub fn run(args: Args) -> Result<ExitCode> {
    let device = args.device.open()?;
    if device.is_cpu() && args.device == DeviceName::Auto {
        bail!(
            "gpu-check: this build or machine has no GPU, so there is nothing to measure; \
             --device cpu tests the check itself"
        );
    }
    if let Some(folder) = args.report.parent() {
        let failed = || format!("cannot make the folder {}", folder.display());
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    let json = args.report.with_extension("json");
    ensure!(json != args.report, "--report is the Markdown file; the .json is written beside it");
    let sizes = if args.quick || device.is_cpu() { &SMALL } else { &FULL };
    let mut report = GpuReport::new(&device, args.device)?;
    let say = |what: &str| eprintln!("{what} …");

    say("comparing operations with the CPU in f64");
    report.checks.extend(ops::checks(&device)?);
    say("proving the three block forms equal");
    for name in sizes.proved {
        report.checks.extend(proof::checks(name, &device)?);
    }
    say("comparing a training run with the CPU's");
    let (checks, losses) = training_run::checks(sizes, &device)?;
    report.checks.extend(checks);
    report.losses = losses;
    say("timing grouped convolutions");
    let bandwidth = resnext_ops::memory_bandwidth(&device, sizes.copied)?;
    report.bandwidth = Some(bandwidth);
    let mut peer = args.python.as_ref().map(|python| peer::start(python, &device)).transpose()?;
    report.peer = peer.as_ref().map(|peer| format!("PyTorch {}", peer.version));
    (report.grouped, report.missing) = grouped::measure(sizes, bandwidth, &device, peer.as_mut())?;
    say("timing training steps");
    report.steps = training_steps::measure(sizes, &device, peer.as_mut())?;
    report.launches = training_steps::launches(sizes, &device)?;

    report.settle();
    report.write(&args.report, &json)?;
    print!("{}", report.summary());
    println!("report: {} and {}", args.report.display(), json.display());
    Ok(if report.green { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
