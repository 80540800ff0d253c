//! The workspace's commands: a file, or a folder, each.

mod allocator;
mod bench;
mod calibrate;
mod convert;
mod curves;
mod data;
mod device;
mod dtype;
mod eval;
mod export;
mod gpu_check;
mod photos;
mod predict;
mod prove;
mod recipe;
mod run_folder;
mod source;
mod summary;
mod table;
mod train;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Train, evaluate and look at ResNeXt networks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a network; with no option, a small one on the embedded data set
    Train(train::Args),
    /// Top-1, top-5, loss and a table a class, of a run or a weights file
    Eval(eval::Args),
    /// Say what photos show, with anyone's ResNeXt or ResNet
    Predict(predict::Args),
    /// Learn the ranges of a network's maps from images, for --dtype int8
    Calibrate(calibrate::Args),
    /// Write weights for other programs: safetensors for torchvision and timm, ONNX
    Export(export::Args),
    /// Rearrange a run's weights and optimizer state to another form of the blocks
    Convert(convert::Args),
    /// Speed and memory of inference, ours and that of OpenVINO, ONNX Runtime and PyTorch
    Bench(bench::Args),
    /// Prove that the three block forms compute one function
    Prove(prove::Args),
    /// Check everything on this machine's GPU, and measure it
    GpuCheck(gpu_check::Args),
    /// Layers, parameters, multiply-adds and activation memory of a network
    Summary(summary::Args),
}

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let result = match Cli::parse().command {
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args).map(|()| ExitCode::SUCCESS),
        Command::Predict(args) => predict::run(args).map(|()| ExitCode::SUCCESS),
        Command::Calibrate(args) => calibrate::run(args).map(|()| ExitCode::SUCCESS),
        Command::Export(args) => export::run(args).map(|()| ExitCode::SUCCESS),
        Command::Convert(args) => convert::run(args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(args).map(|()| ExitCode::SUCCESS),
        Command::Prove(args) => prove::run(args),
        Command::GpuCheck(args) => gpu_check::run(args),
        Command::Summary(args) => summary::run(args).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
