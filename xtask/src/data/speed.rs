//! `cargo xtask data speed`: how many photos per second the loader prepares for training.

use super::photos::PhotoArgs;
use crate::machine;
use crate::plural::counted;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    photos: PhotoArgs,
    /// Worker threads [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// How long to measure, in seconds; at least one epoch
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

pub fn run(args: Args) -> Result<()> {
    let threads = machine::threads_or(args.threads);
    ensure!(threads > 0, "--threads must be at least 1");
    let loader = args.photos.open()?.train(threads)?;
    let count = |epoch: u64| -> Result<usize> {
        loader.epoch(epoch, 0).try_fold(0, |sum, batch| Ok(sum + batch?.labels.len()))
    };
    // The first epoch reads the files into the operating system's cache.
    count(0)?;
    let (start, limit) = (Instant::now(), Duration::from_secs(args.seconds));
    let (mut epoch, mut images) = (1, 0);
    while epoch == 1 || start.elapsed() < limit {
        images += count(epoch)?;
        epoch += 1;
    }
    let speed = images as f64 / start.elapsed().as_secs_f64();
    let (height, width) = loader.size();
    println!(
        "{speed:.0} images/s of {height}×{width} on {}, {:.0} per thread",
        counted(threads, "thread"),
        speed / threads as f64
    );
    loader.unreadable().iter().for_each(|problem| eprintln!("left out: {problem}"));
    Ok(())
}
