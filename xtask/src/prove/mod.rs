//! `cargo xtask prove`: a proof by exact arithmetic that block forms (a), (b) and (c) compute one function,
//! and a measurement of how far rounding separates them; with `--kernels`, a proof of every kernel.

mod args;
mod kernels;
mod mutants;
mod picture;
mod progress;
mod report;
mod tasks;

use anyhow::Result;
pub use args::Args;
use args::{BOUND, QUICK};
use candle_core::{DType, Device};
use mutants::MUTANTS;
use progress::progress_bar;
use report::{ProofReport, ProvedBlock, ProvedNetwork};
use resnext_model::Config;
use resnext_model::equivalence::{
    Control, MutantScore, NetworkErrors, Stack, activations, channel_functions, controls, identity,
    layer_errors, mutants, network_errors, output_error,
};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use tasks::{Task, run_tasks};

const NETWORKS: &[&str] =
    &["resnext50_32x4d", "resnext29_8x64d", "resnext29_16x64d", "resnext20_8x4d", "resnext11_8x4d"];
/// The number of sets of random weights at which the forms are compared with batch norm and ReLU.
const ACTIVATION_TRIALS: usize = 2;
const SGD_STEPS: usize = 10;

pub fn run(args: Args) -> Result<ExitCode> {
    if args.kernels {
        return kernels::run(&args);
    }
    let device = args.device.open()?;
    let report_file = args.report.clone().unwrap_or_else(|| PathBuf::from("runs/prove.md"));
    let files = report::Files::new(&report_file)?;
    let names = if args.quick { QUICK } else { NETWORKS };
    let networks =
        names.iter().map(|&name| Ok((name, Config::by_name(name)?))).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let tasks = tasks(&networks, &device, args.seed)?;
    let bar = progress_bar(tasks.len());
    // A GPU has one queue of work.
    let results = run_tasks(tasks, device.is_cpu(), &bar)?;
    bar.finish_and_clear();

    let mut report = ProofReport::new(&args, &device);
    for result in results {
        match result {
            Proved::Block(block) => report.blocks.push(block),
            Proved::Network(network) => report.networks.push(network),
            Proved::Errors(errors) => report.errors.push(errors),
            Proved::Controls(controls) => report.controls = controls,
            Proved::Mutants(scores) => report.mutants = scores,
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    report.settle();
    files.write(&report)?;
    print!("{report}");
    println!("report: {}, with .json and .svg files beside it", files.markdown.display());
    Ok(if report.proved { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The result of one part of the proof.
enum Proved {
    Block(ProvedBlock),
    Network(ProvedNetwork),
    Errors(NetworkErrors),
    Controls(Vec<Control>),
    Mutants(Vec<MutantScore>),
}

/// All parts of the proof, in the order of the report.
fn tasks<'a>(
    networks: &[(&'static str, Config)],
    device: &'a Device,
    seed: u64,
) -> Result<Vec<Task<'a, Proved>>> {
    // Evaluations of each form, in which time is proportional to the number of weights.
    const OF_BLOCK: usize = 15;
    const OF_NETWORK: usize = 5;
    let mut tasks = Vec::new();
    let mut add = |message: String, cost: usize, run: Box<dyn FnOnce() -> Result<Proved> + Send + 'a>| {
        tasks.push(Task { message, cost, run });
    };
    for (network, stack) in distinct_blocks(networks) {
        let (message, cost) = (format!("{network}: {}", stack.name), OF_BLOCK * stack.weight_count()?);
        add(message, cost, Box::new(move || Ok(Proved::Block(prove_block(network, &stack, device, seed)?))));
    }
    for (name, config) in networks {
        let (name, stack) = (*name, Stack::network(name, config));
        let weights = stack.weight_count()?;
        if exact_types(device).contains(&DType::F64) {
            let prove = move || {
                let identity = channel_functions(&stack, DType::F64, device, BOUND, seed)?;
                Ok(Proved::Network(ProvedNetwork { name: name.to_string(), identity }))
            };
            add(format!("{name}: all blocks as one"), OF_NETWORK * weights, Box::new(prove));
        }
        // Single operations in bf16 convert their operands to f32 and back, which is slow on a CPU, so only
        // the smallest network is measured in it.
        let bf16 = if name == "resnext11_8x4d" { &[DType::BF16][..] } else { &[] };
        for &dtype in exact_types(device).iter().chain(bf16) {
            let config = config.clone();
            let measure =
                move || Ok(Proved::Errors(network_errors(name, &config, dtype, device, SGD_STEPS, seed)?));
            let message = format!("{name}: rounding and {SGD_STEPS} steps of SGD in {}", dtype.as_str());
            add(message, SGD_STEPS * weights, Box::new(measure));
        }
    }
    let broken = Stack::distinct_blocks(&Config::by_name("resnext20_8x4d")?).swap_remove(0);
    let weights = broken.weight_count()?;
    add("negative controls".into(), 10 * weights, {
        Box::new(move || Ok(Proved::Controls(controls(&broken, device, seed)?)))
    });
    // Mutants are much smaller, and many more.
    add("mutants".into(), MUTANTS * weights, Box::new(move || Ok(Proved::Mutants(mutants(MUTANTS, seed)?))));
    Ok(tasks)
}

/// The blocks of all networks, each with the first network that has it.
fn distinct_blocks(networks: &[(&'static str, Config)]) -> Vec<(&'static str, Stack)> {
    let mut blocks: Vec<(&'static str, Stack)> = Vec::new();
    for (name, config) in networks {
        for stack in Stack::distinct_blocks(config) {
            if blocks.iter().all(|(_, other)| other.name != stack.name) {
                blocks.push((name, stack));
            }
        }
    }
    blocks
}

/// The types in which a device computes exactly enough: Metal has no f64.
fn exact_types(device: &Device) -> &'static [DType] {
    if device.is_metal() { &[DType::F32] } else { &[DType::F64, DType::F32] }
}

fn prove_block(network: &str, stack: &Stack, device: &Device, seed: u64) -> Result<ProvedBlock> {
    // With functions of channels, equal forms are equal as polynomials too. In f32, primes are too small for the bound of
    // functions to come down fast.
    let identities = exact_types(device)
        .iter()
        .map(|&dtype| match dtype {
            DType::F64 => Ok(channel_functions(stack, dtype, device, BOUND, seed)?),
            _ => Ok(identity(stack, dtype, device, BOUND, seed)?),
        })
        .collect::<Result<Vec<_>>>()?;
    let activations = match exact_types(device).contains(&DType::F64) {
        true => activations(stack, device, ACTIVATION_TRIALS, seed)?,
        false => Default::default(),
    };
    let layers = exact_types(device)
        .iter()
        .chain(&[DType::BF16])
        .map(|&dtype| Ok((dtype.as_str().to_string(), layer_errors(stack, dtype, device, seed)?)))
        .collect::<Result<_>>()?;
    let output_error = output_error(stack, device, seed)?;
    Ok(ProvedBlock {
        network: network.into(),
        block: stack.name.clone(),
        identities,
        activations,
        layers,
        output_error,
    })
}
