//! `cargo xtask bench`: the speed of our engine and of others on this machine.
//!
//! Each engine is a process of its own that answers requests by one protocol, ours included, so that all are
//! measured in the same way.

mod args;
pub mod engine;
pub mod grouped;
mod inference;
mod peers;
mod protocol;
pub mod stats;
mod target;
mod training;

use crate::run_folder::{BEST, file_in};
use anyhow::Result;
pub use args::Args;
use candle_core::{DType, Device};
use resnext_model::{AnyNetwork, Architecture, Head, Variables, Weights};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use target::Target;

pub fn run(args: Args) -> Result<ExitCode> {
    let target = Target::new(&args)?;
    rayon::ThreadPoolBuilder::new().num_threads(target.threads).build_global()?;
    #[cfg(feature = "mpi")]
    args.shared.check(args.distributed)?;
    #[cfg(feature = "mpi")]
    if args.distributed {
        return training::benchmark_processes(&args, &target);
    }
    let folder = tempfile::tempdir()?;
    let weights = match &args.weights {
        Some(path) => {
            let file = file_in(path, BEST);
            // Checked here, because an engine's process has no way to report why it ended.
            Weights::open(&file)?.check(&target.network, Head::Loaded)?;
            file
        }
        None => random_weights(&target.network, folder.path())?,
    };
    let done = match (args.train, args.serve) {
        (false, false) => inference::benchmark(&args, &target, &weights, folder.path()),
        (false, true) => inference::serve(&target, &weights, args.ranges.as_deref()),
        (true, false) => training::benchmark(&args, &target, &weights),
        (true, true) => training::serve(&target, &weights, args.grad_checkpoint),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Writes the weights of a new network into `folder`.
pub fn random_weights(network: &Architecture, folder: &Path) -> Result<PathBuf> {
    let variables = Variables::new(1, DType::F32, &Device::Cpu);
    AnyNetwork::new(network, variables.builder())?;
    let path = folder.join("weights.safetensors");
    let tensors = variables.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    candle_core::safetensors::save(&tensors.collect(), &path)?;
    // Otherwise the first engine's start would compete with the disk. Windows syncs only what is open for writing.
    std::fs::File::options().write(true).open(&path)?.sync_all()?;
    Ok(path)
}
