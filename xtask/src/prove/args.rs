//! The options of `cargo xtask prove`.

use crate::device_arg::{self, DeviceName};
use std::path::PathBuf;

/// The probability of a wrong verdict, at most.
pub const BOUND: f64 = 1e-15;

#[derive(clap::Args)]
pub struct Args {
    /// Prove only resnext20_8x4d and the negative controls, in a few seconds
    #[arg(long)]
    pub quick: bool,
    #[arg(long, default_value = "cpu", help = device_arg::HELP)]
    pub device: DeviceName,
    /// Seed of the random points and weights
    #[arg(long, default_value_t = 2016)]
    pub seed: u64,
    /// Markdown file to write; a .json and a .svg are written beside it
    #[arg(long, default_value = "runs/prove.md")]
    pub report: PathBuf,
}
