//! The network that a benchmark measures, and how.

use super::args::Args;
use crate::dtype_arg::Dtype;
use crate::machine;
use anyhow::{Result, ensure};
use resnext_model::{Architecture, Config, StemKind};

pub struct Target {
    pub name: String,
    pub network: Architecture,
    /// Height and width of the images.
    pub size: usize,
    pub threads: usize,
    /// Types to measure our engine in; each is a process of its own.
    pub dtypes: Vec<Dtype>,
}

impl Target {
    /// Checks the options and fills in their defaults.
    ///
    /// # Errors
    /// If a number is out of range, or the file of ranges cannot be read.
    pub fn new(args: &Args) -> Result<Self> {
        let network = Architecture::by_name(&args.model)?;
        if args.train {
            network.config()?;
        }
        let size = args.size.unwrap_or(network.size());
        let threads = machine::threads_or(args.threads);
        ensure!((1..=1 << 14).contains(&size), "--size must be from 1 to 16384, got {size}");
        ensure!(threads > 0 && args.rounds > 0, "--threads and --rounds must be at least 1");
        ensure!(args.batch.iter().all(|n| (1..=4096).contains(n)), "--batch must be from 1 to 4096");
        let dtypes = match (args.dtype.is_empty(), args.train) {
            (false, _) => args.dtype.clone(),
            (true, true) => vec![Dtype::F32],
            (true, false) => {
                let int8 = network.config().and_then(Config::check_int8).is_ok();
                Dtype::native().into_iter().filter(|&dtype| int8 || dtype != Dtype::Int8).collect()
            }
        };
        ensure!(
            args.ranges.is_none() || !args.train && dtypes.contains(&Dtype::Int8),
            "--ranges is for --dtype int8, and not for --train"
        );
        // Checked here, because an engine's process has no way to report why it ended.
        for &dtype in dtypes.iter().filter(|_| !args.train) {
            if dtype == Dtype::Int8 {
                network.config()?.check_int8()?;
                if args.ranges.is_some() {
                    dtype.ranges(args.ranges.as_deref())?;
                }
            }
        }
        Ok(Target { name: args.model.clone(), network, size, threads, dtypes })
    }

    /// Whether the network has the small stem of CIFAR networks.
    pub fn is_cifar(&self) -> bool {
        self.network.config().is_ok_and(|config| config.stem == StemKind::Cifar)
    }
}
