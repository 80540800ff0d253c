//! How one trainer takes part in training by several processes.

use crate::config::TrainConfig;
use crate::distributed::config::DistributedConfig;
use crate::distributed::gradients::GradientSums;
use crate::distributed::processes::Processes;
use crate::error::{Error, Result};
use candle_core::{Device, Var};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

/// The processes that a trainer is one of, and how gradients are added up over them.
#[derive(Debug)]
pub(crate) struct DataParallel {
    pub processes: Arc<Processes>,
    /// `None` for a single process.
    pub sums: Option<GradientSums>,
    config: DistributedConfig,
}

impl DataParallel {
    /// A single process.
    pub(crate) fn single() -> Self {
        let processes = Arc::new(Processes::single());
        DataParallel { processes, sums: None, config: DistributedConfig::default() }
    }

    /// Several processes, which train these named variables on `device`.
    ///
    /// # Errors
    /// [`Error::Config`] if batch norms cannot be synchronised.
    pub(crate) fn new(
        processes: Arc<Processes>,
        config: &DistributedConfig,
        training: &TrainConfig,
        trained: Vec<(String, Var)>,
        device: &Device,
    ) -> Result<Self> {
        if config.bucket_bytes == 0 {
            return Err(Error::Config("buckets of gradients must have at least 1 byte, got 0".into()));
        }
        if config.sync_norms && !device.is_cpu() {
            let message =
                "batch norms are synchronised on the CPU only; leave synchronisation off on other devices";
            return Err(Error::Config(message.into()));
        }
        if config.sync_norms && training.class_weights.contains(&0.0) {
            let message = "batch norms cannot be synchronised with class weights of 0, which leave a process without a loss";
            return Err(Error::Config(message.into()));
        }
        let several = processes.size() > 1;
        let sums = several.then(|| GradientSums::new(Arc::clone(&processes), trained, config));
        Ok(DataParallel { processes, sums, config: *config })
    }

    /// Whether batch norms use the statistics of the whole batch.
    pub(crate) fn syncs_norms(&self) -> bool {
        self.config.sync_norms && self.processes.size() > 1
    }

    /// Checks that all processes have the same named facts about their run, and add up in the same way.
    ///
    /// # Errors
    /// [`Error::AllProcesses`] in all of them alike, which says what differs in which rank.
    pub(crate) fn check_same_run(&self, facts: &[(&str, String)]) -> Result<()> {
        self.processes.check_same(facts)?;
        self.processes.check_same(&[
            ("way of adding up", format!("{:?}", self.config)),
            ("instruction set", resnext_ops::Isa::current().name().to_string()),
        ])
    }

    /// Checks that all processes have the same values of these named variables, of type f32.
    ///
    /// # Errors
    /// [`Error::AllProcesses`] in all of them alike, which says in which rank they differ.
    pub(crate) fn check_same_weights(&self, variables: Vec<(String, Var)>) -> Result<()> {
        if self.processes.size() == 1 {
            return Ok(());
        }
        let mut hasher = DefaultHasher::new();
        for (name, var) in variables {
            hasher.write(name.as_bytes());
            let values = var.as_detached_tensor().flatten_all()?.to_vec1::<f32>()?;
            hasher.write(bytemuck::cast_slice(&values));
        }
        self.processes.check_same(&[("set of weights (hash)", format!("{:016x}", hasher.finish()))])
    }
}
