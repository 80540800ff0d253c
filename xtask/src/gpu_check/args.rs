//! The options of `cargo xtask gpu-check`.

use super::part::Part;
use crate::device_arg::{self, DeviceName};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[arg(long, default_value = "auto", help = device_arg::HELP)]
    pub device: DeviceName,
    /// Check small sizes, as on the CPU, in a minute or two: a test of the check itself
    #[arg(long)]
    pub quick: bool,
    /// Run only these parts, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Python interpreter that has the packages of bench/peers/requirements-gpu.txt; PyTorch is measured too
    #[arg(long)]
    pub python: Option<PathBuf>,
    /// The script that runs PyTorch [default: gpu.py beside this program, or bench/peers/gpu.py in its sources]
    #[arg(long, requires = "python")]
    pub script: Option<PathBuf>,
    /// Markdown file to write, anew after each measurement; a .json is written beside it
    #[arg(long, default_value = "runs/gpu-check.md")]
    pub report: PathBuf,
}
