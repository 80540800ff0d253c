//! `cargo xtask data`: looks at a folder of photos before a network does.

mod photos;
mod preview;
mod speed;

use anyhow::Result;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write a contact sheet of what a network sees: a row per class, a validation photo first, then training
    /// crops
    Preview(preview::Args),
    /// Measure how many photos per second are prepared for training
    Speed(speed::Args),
}

pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Preview(args) => preview::run(args),
        Command::Speed(args) => speed::run(args),
    }
}
