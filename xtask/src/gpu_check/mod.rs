//! `cargo xtask gpu-check`: checks every operation on a GPU and measures its speed, in one run.

mod args;
mod check;
mod gpu;
mod grouped;
mod inference;
mod measured;
mod network_speed;
mod ops;
mod part;
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
use candle_core::Device;
use clap::ValueEnum;
use part::Part;
use peer::Peer;
use report::GpuReport;
use sizes::{FULL, SMALL, Sizes};
use std::process::ExitCode;

pub fn run(args: Args) -> Result<ExitCode> {
    let device = args.device.open()?;
    if device.is_cpu() && args.device == DeviceName::Auto {
        bail!(
            "gpu-check: this build or machine has no GPU, so there is nothing to measure; \
             --device cpu tests the check itself"
        );
    }
    let json = args.report.with_extension("json");
    ensure!(json != args.report, "--report is the Markdown file; the .json is written beside it");
    let sizes = if args.quick || device.is_cpu() { &SMALL } else { &FULL };
    let mut parts = if args.only.is_empty() { Part::value_variants().to_vec() } else { args.only };
    parts.sort();
    parts.dedup();
    let mut peer = match &args.python {
        Some(python) if parts.iter().any(|part| part.has_peer()) => {
            Some(Peer::start(python, args.script.as_deref(), &device)?)
        }
        _ => None,
    };
    // A command that cannot start leaves no folder.
    if let Some(folder) = args.report.parent() {
        let failed = || format!("cannot make the folder {}", folder.display());
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    let mut report = GpuReport::new(&device, args.device, args.report, json)?;
    report.peer = peer.as_ref().map(|peer| format!("PyTorch {}", peer.version()));
    for part in parts {
        eprintln!("{part} …");
        // Machines with a GPU are dear: one part that fails does not cost the others.
        if let Err(error) = measure(part, sizes, &device, peer.as_mut(), &mut report) {
            report.failed.push(format!("{part}: {error:#}"));
        }
        report.parts.push(part);
        report.save()?;
    }
    print!("{}", report.summary());
    println!("report: {} and {}", report.markdown.display(), report.json.display());
    Ok(if report.green { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one part, and saves the report after each of its measurements.
fn measure(
    part: Part,
    sizes: &Sizes,
    device: &Device,
    peer: Option<&mut Peer>,
    report: &mut GpuReport,
) -> Result<()> {
    match part {
        Part::Operations => report.checks.extend(ops::checks(device)?),
        Part::Forms => {
            for name in sizes.proved {
                report.checks.extend(proof::checks(name, device)?);
            }
        }
        Part::Losses => {
            let (checks, losses) = training_run::checks(sizes, device)?;
            report.checks.extend(checks);
            report.losses = losses;
        }
        Part::Grouped => {
            let bandwidth = resnext_ops::memory_bandwidth(device, sizes.copied)?;
            report.bandwidth = Some(bandwidth);
            grouped::measure(sizes, bandwidth, device, peer, |measured| {
                report.add(measured, |report| &mut report.grouped)
            })?;
        }
        Part::Training => {
            report.launches = training_steps::launches(sizes, device)?;
            training_steps::measure(sizes, device, peer, |measured| {
                report.add(measured, |report| &mut report.training)
            })?;
        }
        Part::Inference => inference::measure(sizes, device, peer, |measured| {
            report.add(measured, |report| &mut report.inference)
        })?,
    }
    Ok(())
}
