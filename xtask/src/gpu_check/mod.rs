//! `cargo xtask gpu-check`: everything that must be seen on a GPU, in one run.

mod bench;
mod gpu;
mod ops;
mod peer;
mod report;
mod training;

use crate::device::{self, DeviceName};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device};
use report::{Check, Report};
use resnext_model::Config;
use resnext_model::equivalence::{Stack, identity};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Args {
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: DeviceName,
    /// Small sizes, in a minute or two, as the CPU gets them: to see that the check itself works
    #[arg(long)]
    quick: bool,
    /// Python with the packages of bench/peers/requirements-gpu.txt, to measure PyTorch as well
    #[arg(long)]
    python: Option<PathBuf>,
    /// File to write as Markdown, with a .json beside it
    #[arg(long, default_value = "runs/gpu-check.md")]
    report: PathBuf,
}

/// What is run: all of it on a GPU, a small part of it on a CPU.
pub struct Sizes {
    /// Networks whose blocks are proved.
    proved: &'static [&'static str],
    /// Images a batch and batches of the training run.
    trained: (usize, usize),
    /// Channels and side of grouped 3×3 convolutions, 32 groups.
    grouped: &'static [(usize, usize)],
    grouped_batch: usize,
    /// Times a convolution is run for one measurement, and measurements.
    runs: (usize, usize),
    /// The network, with torchvision's stem, whose training steps are measured; images a batch and a side; steps.
    network: &'static str,
    images: (usize, usize),
    steps: usize,
    /// Bytes copied to measure the memory.
    copied: usize,
}

const FULL: Sizes = Sizes {
    proved: &["resnext50_32x4d", "resnext20_8x4d"],
    trained: (64, 20),
    grouped: &crate::bench::grouped::SHAPES,
    grouped_batch: 64,
    runs: (20, 10),
    network: "resnext50_32x4d",
    images: (64, 224),
    steps: 20,
    copied: 1 << 30,
};

const SMALL: Sizes = Sizes {
    proved: &["resnext11_4x4d"],
    trained: (16, 4),
    grouped: &[(128, 7), (256, 4)],
    grouped_batch: 2,
    runs: (1, 2),
    network: "resnext50_4x4d",
    images: (2, 32),
    steps: 2,
    copied: 1 << 24,
};

/// The chance of a wrong verdict that the proof may have.
const BOUND: f64 = 1e-15;
const SEED: u64 = 2016;

pub fn run(args: Args) -> Result<ExitCode> {
    let device = args.device.open()?;
    if device.is_cpu() && args.device == DeviceName::Auto {
        bail!(
            "gpu-check: this build or machine has no GPU, so nothing is measured; --device cpu tries the check itself out"
        );
    }
    if let Some(folder) = args.report.parent() {
        let failed = || format!("cannot make the folder {}", folder.display());
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    let json = args.report.with_extension("json");
    ensure!(json != args.report, "--report is the Markdown file; the .json is written beside it");
    let sizes = if args.quick || device.is_cpu() { &SMALL } else { &FULL };
    let mut report = Report::new(&device, args.device)?;
    let say = |what: &str| eprintln!("{what} …");

    say("operations against the CPU in f64");
    report.checks.extend(ops::checks(&device)?);
    say("the three forms");
    for name in sizes.proved {
        report.checks.extend(proof(name, &device)?);
    }
    say("training, beside the CPU's");
    let (checks, losses) = training::checks(sizes, &device)?;
    report.checks.extend(checks);
    report.losses = losses;
    say("grouped convolutions");
    let bandwidth = resnext_ops::memory_bandwidth(&device, sizes.copied)?;
    report.bandwidth = Some(bandwidth);
    let mut peer = args.python.as_ref().map(|python| peer::start(python, &device)).transpose()?;
    report.peer = peer.as_ref().map(|peer| format!("PyTorch {}", peer.version));
    (report.grouped, report.missing) = bench::grouped(sizes, bandwidth, &device, peer.as_mut())?;
    say("training steps");
    report.steps = bench::steps(sizes, &device, peer.as_mut())?;
    report.launches = bench::launches(sizes, &device)?;

    report.settle();
    report.write(&args.report, &json)?;
    print!("{}", report.summary());
    println!("{} has the report, with a .json beside it", args.report.display());
    Ok(if report.green { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The forms of every distinct block of a network, proved on the device.
fn proof(name: &str, device: &Device) -> Result<Vec<Check>> {
    // Metal has no f64.
    let dtypes: &[DType] = if device.is_metal() { &[DType::F32] } else { &[DType::F64, DType::F32] };
    let mut checks = Vec::new();
    for stack in Stack::distinct_blocks(&Config::by_name(name)?) {
        for &dtype in dtypes {
            let proved = identity(&stack, dtype, device, BOUND, SEED)?;
            checks.push(Check::at_most(
                "three forms",
                &format!("{name}: {}, bits that differ", stack.name),
                dtype,
                proved.tally.bits as f64,
                0.0,
            ));
        }
    }
    Ok(checks)
}
