//! Training steps, ours beside PyTorch's, on the same weights and images.

#[cfg(feature = "mpi")]
mod distributed;
mod report;
mod step;
mod worker;

use super::args::Args;
use super::engine::{Engine, PAUSE};
use super::grouped::{self, GroupedTimes, Pass};
use super::peers::{Peers, ours};
use super::target::Target;
use crate::dtype_arg::Dtype;
use anyhow::{Result, bail, ensure};
use candle_core::DType;
use report::{Measured, TrainingReport};
use serde_json::{Value, json};
use std::path::Path;
#[cfg(feature = "mpi")]
use std::process::ExitCode;
use step::{COMPARED, MOMENTUM, PARTS, RATE};
pub use worker::serve;

/// Measures, and prints the report.
pub fn benchmark(args: &Args, target: &Target, weights: &Path) -> Result<()> {
    ensure!(!target.dtypes.contains(&Dtype::Int8), "--train computes in f32 or bf16, not in int8");
    let batch = batch(args, target)?;
    let report = measure(args, target, batch, start_engines(args, target, weights)?)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    Ok(())
}

/// Images per batch.
fn batch(args: &Args, target: &Target) -> Result<usize> {
    Ok(match args.batch[..] {
        [] if target.is_cifar() => 128,
        [] => 16,
        [batch] => batch,
        _ => bail!("--train takes one --batch, got {}", args.batch.len()),
    })
}

/// Measures steps of the processes that a launcher has started.
#[cfg(feature = "mpi")]
pub fn benchmark_processes(args: &Args, target: &Target) -> Result<ExitCode> {
    distributed::benchmark(args, target, batch(args, target)?)
}

/// Starts ours, once for each type, and with `--peers` PyTorch's.
fn start_engines(args: &Args, target: &Target, weights: &Path) -> Result<Vec<Engine>> {
    let mut engines = Vec::new();
    for &dtype in &target.dtypes {
        let mut command = ours(target, weights, dtype)?;
        command.arg("--train");
        if args.grad_checkpoint {
            command.arg("--grad-checkpoint");
        }
        engines.push(Engine::connect("resnext", &mut command)?);
    }
    if args.peers {
        let peers = Peers::new(&args.python, target, weights)?;
        ensure!(
            peers.torchvision_has_it(),
            "--train --peers needs a network that torchvision has, not {}",
            target.name
        );
        let names: &[&str] = match target.is_cifar() {
            true => &["pytorch", "pytorch-channels-last"],
            false => &["pytorch-channels-last"],
        };
        for name in names {
            engines.push(Engine::connect(name, &mut peers.serve_pytorch(name)?)?);
        }
    }
    Ok(engines)
}

fn measure(args: &Args, target: &Target, batch: usize, mut engines: Vec<Engine>) -> Result<TrainingReport> {
    let peak = resnext_ops::fma_peak(DType::F32).unwrap_or(f64::NAN);
    let size = target.size;
    let request = |steps: usize| {
        json!({"do": "train", "batch": batch, "size": size, "steps": steps, "rate": RATE,
            "momentum": MOMENTUM})
    };
    let mut losses: Vec<Vec<f64>> = Vec::new();
    for engine in &mut engines {
        losses.push(serde_json::from_value(engine.ask(request(COMPARED))?["losses"].clone())?);
    }
    let times = time_in_turns(args.rounds, request(1), &mut engines)?;
    let peak_mb = engines.iter_mut().map(Engine::memory).collect::<Result<Vec<_>>>()?;
    let layers = match args.layers {
        true => {
            let request = json!({"do": "train-layers", "batch": batch, "size": size, "steps": 3});
            serde_json::from_value(engines[0].ask(request)?["layers"].clone())?
        }
        false => Vec::new(),
    };
    let grouped = time_grouped(target, &mut engines)?;
    // The backward pass costs twice the forward pass.
    let flops = 6.0 * (target.network.summary(size, size)?.multiply_adds() * batch) as f64;
    let measured = engines.iter().zip(losses.clone()).zip(&times).zip(peak_mb).map(
        |(((engine, own_losses), times), peak_mb)| {
            Measured::new(engine, times, own_losses, &losses[0], batch, flops, peak_mb)
        },
    );
    Ok(TrainingReport {
        model: target.name.clone(),
        size,
        batch,
        threads: target.threads,
        rounds: args.rounds,
        instructions: resnext_ops::Isa::current().name(),
        grad_checkpoint: args.grad_checkpoint,
        peak_gflops: peak / 1e9,
        engines: measured.collect(),
        layers,
        grouped,
    })
}

/// Times single steps, in milliseconds: by engine, by [`PARTS`], by round. In each round the engines take
/// turns.
fn time_in_turns(rounds: usize, request: Value, engines: &mut [Engine]) -> Result<Vec<[Vec<f64>; 4]>> {
    let mut times = vec![[const { Vec::new() }; PARTS.len()]; engines.len()];
    for _ in 0..rounds {
        for (engine, times) in engines.iter_mut().zip(&mut times) {
            std::thread::sleep(PAUSE);
            let answer = engine.ask(request.clone())?;
            for (part, times) in PARTS.iter().zip(times) {
                times.extend(serde_json::from_value::<Vec<f64>>(answer[part].clone())?);
            }
        }
    }
    Ok(times)
}

/// Times grouped convolutions in f32, if the network has any.
fn time_grouped(target: &Target, engines: &mut [Engine]) -> Result<Vec<GroupedTimes>> {
    if target.is_cifar() || target.dtypes[0] != Dtype::F32 {
        return Ok(Vec::new());
    }
    let mut compared: Vec<_> =
        engines.iter_mut().filter(|engine| engine.precision == Dtype::F32.name()).collect();
    grouped::measure(&mut compared, Pass::ForwardBackward)
}
