//! The progress of a proof.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// A bar on the terminal, with the time and what is being proved.
pub fn progress_bar(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    // The largest network takes a minute; a running clock shows that the program is alive.
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}
