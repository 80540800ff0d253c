//! The options of runs of several processes.

use anyhow::{Result, ensure};
use resnext_train::distributed::{DistributedConfig, Wire};
use std::time::Duration;

/// They mean something only where a launcher such as `mpirun` has started several processes.
#[derive(clap::Args)]
#[command(next_help_heading = "Several processes, as in mpirun -n 4 xtask train")]
pub struct DistributedArgs {
    /// Normalise by the statistics of whole batches, not of each process's part of them (CPU only)
    #[arg(long)]
    pub sync_bn: bool,
    /// Type of gradients on their way between processes: f32 or bf16
    #[arg(long, default_value_t = Wire::F32)]
    pub wire: Wire,
    /// MiB of gradients per sum. A sum starts as soon as the backward pass has computed its gradients
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub bucket: u32,
    /// Seconds that a process waits for another before all end
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout: u32,
}

impl DistributedArgs {
    /// Refuses settings that nothing would read, in a process that no launcher has started.
    pub fn check(&self, launched: bool) -> Result<()> {
        ensure!(
            launched || self.config() == DistributedConfig::default(),
            "--sync-bn, --wire and --bucket are for several processes, such as those of mpirun -n 4"
        );
        Ok(())
    }

    pub fn config(&self) -> DistributedConfig {
        DistributedConfig {
            wire: self.wire,
            bucket_bytes: (self.bucket as usize) << 20,
            sync_norms: self.sync_bn,
        }
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}
