//! The options of `cargo xtask prove`.

use crate::device_arg::{self, DeviceName};
use std::path::PathBuf;

/// The probability of a wrong verdict, at most.
pub const BOUND: f64 = 1e-15;

/// The network that `--quick` proves.
pub const QUICK: &[&str] = &["resnext20_8x4d"];

#[derive(clap::Args)]
pub struct Args {
    /// Prove every kernel of every instruction set against the definition of a convolution, in place of the forms
    #[arg(long, conflicts_with = "device")]
    pub kernels: bool,
    /// Prove only resnext20_8x4d and the negative controls, in a few seconds
    #[arg(long)]
    pub quick: bool,
    #[arg(long, default_value = "cpu", help = device_arg::HELP)]
    pub device: DeviceName,
    /// Seed of the random points and weights
    #[arg(long, default_value_t = 2016)]
    pub seed: u64,
    /// Markdown file to write, with a .json and for the forms a .svg beside it [default: runs/prove.md or
    /// runs/prove-kernels.md]
    #[arg(long)]
    pub report: Option<PathBuf>,
}
