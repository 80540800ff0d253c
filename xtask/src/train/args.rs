//! The options of `cargo xtask train`.

use crate::device_arg::{self, DeviceName};
#[cfg(feature = "mpi")]
use crate::distributed_args::DistributedArgs;
use crate::recipe::Overrides;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub overrides: Overrides,
    /// TOML file with all settings, or the name of one in recipes/ [default: the one of the data set]
    #[arg(long)]
    pub recipe: Option<String>,
    /// Continue the run in this folder
    #[arg(long, conflicts_with_all = ["recipe", "out"])]
    pub resume: Option<PathBuf>,
    /// Folder for the run [default: a new one under runs/]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Minutes between checkpoints within an epoch, such as 0.5; there is also one after each epoch
    #[arg(long, default_value = "5", value_parser = minutes)]
    pub save_every: Duration,
    #[arg(long, default_value = "auto", help = device_arg::HELP)]
    pub device: DeviceName,
    #[cfg(feature = "mpi")]
    #[command(flatten)]
    pub distributed: DistributedArgs,
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "expected a number of minutes".to_string())?;
    Duration::try_from_secs_f64(60.0 * minutes).map_err(|_| "expected a number of minutes from 0".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_may_be_fractions_and_are_not_negative() {
        assert_eq!(minutes("0.5"), Ok(Duration::from_secs(30)));
        assert_eq!(minutes("0"), Ok(Duration::ZERO));
        assert!(minutes("-1").unwrap_err().contains("from 0"));
        assert!(minutes("soon").is_err() && minutes("NaN").is_err() && minutes("inf").is_err());
    }
}
