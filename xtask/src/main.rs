//! The commands of the workspace; each has a file, or a folder, of its own.

// The commands.
mod bench;
mod calibrate;
mod compare;
mod convert;
mod data;
mod eval;
mod export;
mod gpu_check;
mod predict;
mod prove;
mod study;
mod summary;
mod train;

// Options that several commands share, and what they refer to.
mod checkpoint;
mod class_weights_arg;
mod classifier;
mod dataset_arg;
mod device_arg;
#[cfg(feature = "mpi")]
mod distributed_args;
mod dtype_arg;
mod input_options;
mod launch;
mod loaders;
mod mix_options;
mod named_recipes;
mod network_name;
mod open_data;
mod photo_defaults;
mod photo_options;
mod photo_overrides;
mod photo_paths;
mod photo_sets;
mod recipe;
mod weights_source;

// A run's folder.
mod curves;
mod history;
mod prepared_run;
mod report;
mod run_folder;
mod run_lock;
mod run_record;
mod tensorboard;

mod allocator;
mod error_line;
mod inputs;
mod line_chart;
mod machine;
mod plural;
mod text_table;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Train, evaluate and use ResNeXt networks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a network; without options, a small one on generated images
    Train(train::Args),
    /// Evaluate a run or trained weights: top-1, top-5, loss, and a table per class
    Eval(eval::Args),
    /// Look at a data set before a network does
    Data(data::Args),
    /// Classify photos with any pretrained ResNeXt or ResNet
    Predict(predict::Args),
    /// Measure the ranges of a network's feature maps on images, for --dtype int8
    Calibrate(calibrate::Args),
    /// Write weights for other programs: safetensors for torchvision and timm, or ONNX
    Export(export::Args),
    /// Rewrite a run's checkpoint with its blocks in another form
    Convert(convert::Args),
    /// Measure speed and memory, beside OpenVINO, ONNX Runtime and PyTorch
    Bench(bench::Args),
    /// Prove that the three block forms compute one function
    Prove(prove::Args),
    /// Check the paper's claims: train networks of equal complexity, and judge their errors
    Study(study::Args),
    /// Check every operation on this machine's GPU, and measure its speed
    GpuCheck(gpu_check::Args),
    /// Compare networks: parameters, multiply-adds, speed here, and published errors
    Compare(compare::Args),
    /// List a network's layers, parameters, multiply-adds and activation memory
    Summary(summary::Args),
}

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let result = run(Cli::parse().command);
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", error_line::error_line(&error));
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    // These two start the pool with a number of threads of their own.
    if !matches!(command, Command::Bench(_) | Command::Compare(_)) {
        machine::limit_pool()?;
    }
    match command {
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args).map(|()| ExitCode::SUCCESS),
        Command::Data(args) => data::run(args).map(|()| ExitCode::SUCCESS),
        Command::Predict(args) => predict::run(args).map(|()| ExitCode::SUCCESS),
        Command::Calibrate(args) => calibrate::run(args).map(|()| ExitCode::SUCCESS),
        Command::Export(args) => export::run(args).map(|()| ExitCode::SUCCESS),
        Command::Convert(args) => convert::run(args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(args),
        Command::Prove(args) => prove::run(args),
        Command::Study(args) => study::run(args),
        Command::GpuCheck(args) => gpu_check::run(args),
        Command::Compare(args) => compare::run(args).map(|()| ExitCode::SUCCESS),
        Command::Summary(args) => summary::run(args).map(|()| ExitCode::SUCCESS),
    }
}
