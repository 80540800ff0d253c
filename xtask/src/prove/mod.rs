//! `cargo xtask prove`

mod picture;
mod report;

use crate::device::{self, DeviceName};
use anyhow::Result;
use candle_core::{DType, Device};
use indicatif::{ProgressBar, ProgressStyle};
use report::{Block, Network, Report};
use resnext_model::Config;
use resnext_model::equivalence::{
    Stack, activations, controls, identity, layer_errors, network_errors, output_error,
};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Args {
    /// Only resnext20_8x4d, its blocks and the negative controls: under 20 seconds
    #[arg(long)]
    quick: bool,
    #[arg(long, default_value = "cpu", help = device::HELP)]
    device: DeviceName,
    /// Of the random points and weights
    #[arg(long, default_value_t = 2016)]
    seed: u64,
    /// File to write as Markdown, with a .json and a .svg beside it
    #[arg(long, default_value = "runs/prove.md")]
    report: PathBuf,
}

/// The chance of a wrong verdict that is asked for.
const BOUND: f64 = 1e-15;
/// Random weights that the forms are compared at with batch norm and ReLU.
const ACTIVATION_TRIALS: usize = 2;
const SGD_STEPS: usize = 10;

pub fn run(args: Args) -> Result<ExitCode> {
    let device = args.device.open()?;
    let files = report::Files::new(&args.report)?;
    let names: &[&str] = match args.quick {
        true => &["resnext20_8x4d"],
        false => {
            &["resnext50_32x4d", "resnext29_8x64d", "resnext29_16x64d", "resnext20_8x4d", "resnext11_8x4d"]
        }
    };
    let networks =
        names.iter().map(|&name| Ok((name, Config::by_name(name)?))).collect::<Result<Vec<_>>>()?;
    let mut blocks: Vec<(&str, Stack)> = Vec::new();
    for (name, config) in &networks {
        for stack in Stack::distinct_blocks(config) {
            if blocks.iter().all(|(_, other)| other.name != stack.name) {
                blocks.push((name, stack));
            }
        }
    }
    let bar = ProgressBar::new((blocks.len() + 2 * networks.len() + 1) as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    // The largest network takes a minute: the clock shows that it goes on.
    bar.enable_steady_tick(Duration::from_secs(1));
    let start = Instant::now();
    let step = |what: &str| bar.set_message(what.to_string());

    let mut report = Report::new(&args);
    for (network, stack) in &blocks {
        step(&format!("{network}: {}", stack.name));
        report.blocks.push(prove_block(network, stack, &device, args.seed)?);
        bar.inc(1);
    }
    for (name, config) in &networks {
        step(&format!("{name}: all blocks"));
        let stack = Stack::network(name, config);
        if dtypes(&device).contains(&DType::F64) {
            let identity = identity(&stack, DType::F64, &device, BOUND, args.seed)?;
            report.networks.push(Network { name: name.to_string(), identity });
        }
        bar.inc(1);
        step(&format!("{name}: rounding and {SGD_STEPS} steps of SGD"));
        // bf16 has no kernels of ours and is slow on a CPU: the smallest network shows it.
        let bf16 = if *name == "resnext11_8x4d" { &[DType::BF16][..] } else { &[] };
        for &dtype in dtypes(&device).iter().chain(bf16) {
            report.errors.push(network_errors(name, config, dtype, &device, SGD_STEPS, args.seed)?);
        }
        bar.inc(1);
    }
    step("negative controls");
    let broken = Stack::distinct_blocks(&Config::by_name("resnext20_8x4d")?);
    report.controls = controls(&broken[0], &device, args.seed)?;
    bar.finish_and_clear();

    report.seconds = start.elapsed().as_secs_f64();
    report.settle();
    files.write(&report)?;
    print!("{report}");
    println!("{} has the report, with .json and .svg beside it", files.markdown.display());
    Ok(if report.proved { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The types a device computes exactly enough in: Metal has no f64.
fn dtypes(device: &Device) -> &'static [DType] {
    if device.is_metal() { &[DType::F32] } else { &[DType::F64, DType::F32] }
}

fn prove_block(network: &str, stack: &Stack, device: &Device, seed: u64) -> Result<Block> {
    let identities = dtypes(device)
        .iter()
        .map(|&dtype| Ok(identity(stack, dtype, device, BOUND, seed)?))
        .collect::<Result<Vec<_>>>()?;
    let activations = match dtypes(device).contains(&DType::F64) {
        true => activations(stack, device, ACTIVATION_TRIALS, seed)?,
        false => Default::default(),
    };
    let layers = dtypes(device)
        .iter()
        .chain(&[DType::BF16])
        .map(|&dtype| Ok((format!("{dtype:?}").to_lowercase(), layer_errors(stack, dtype, device, seed)?)))
        .collect::<Result<_>>()?;
    let ulps = output_error(stack, device, seed)?;
    Ok(Block { network: network.into(), block: stack.name.clone(), identities, activations, layers, ulps })
}
