//! The options of `cargo xtask train`.

use crate::device_arg::{self, DeviceName};
use crate::recipe::Overrides;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub overrides: Overrides,
    /// TOML file with all settings [default: the file for the data set in recipes/]
    #[arg(long)]
    pub recipe: Option<PathBuf>,
    /// Continue the run in this folder
    #[arg(long, conflicts_with_all = ["recipe", "out"])]
    pub resume: Option<PathBuf>,
    /// Folder for the run [default: a new one under runs/]
    #[arg(long)]
    pub out: Option<PathBuf>,
    #[arg(long, default_value = "auto", help = device_arg::HELP)]
    pub device: DeviceName,
}
