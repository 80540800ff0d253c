//! How one trainer takes part in training by several processes.

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
    /// Whether NCCL adds gradients up; `None` before it was tried.
    by_nccl: Option<bool>,
}

impl DataParallel {
    /// A single process.
    pub(crate) fn single() -> Self {
        let processes = Arc::new(Processes::single());
        DataParallel { processes, sums: None, config: DistributedConfig::default(), by_nccl: None }
    }

    /// Several processes, which train these named variables on `device`.
    ///
    /// # Errors
    /// [`Error::Config`] if batch norms cannot be synchronised.
    pub(crate) fn new(
        processes: Arc<Processes>,
        config: &DistributedConfig,
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
        let several = processes.size() > 1;
        let sums = several.then(|| GradientSums::new(Arc::clone(&processes), trained, config));
        Ok(DataParallel { processes, sums, config: *config, by_nccl: None })
    }

    /// Whether batch norms use the statistics of the whole batch.
    pub(crate) fn syncs_norms(&self) -> bool {
        self.config.sync_norms && self.processes.size() > 1
    }

    /// Has gradients on GPUs added up there, if that can be; returns whether it is so. To be called by all processes.
    ///
    /// # Errors
    /// If NCCL cannot bring the processes together.
    pub(crate) fn connect(&mut self, device: &Device) -> Result<bool> {
        let Some(sums) = &mut self.sums else { return Ok(false) };
        let connected = match self.by_nccl {
            Some(connected) => connected,
            None => self.processes.connect(device)?,
        };
        self.by_nccl = Some(connected);
        sums.set_as_tensors(connected);
        Ok(connected)
    }

    /// Checks that all processes have the same named facts about their run, and add up in the same way.
    ///
    /// # Errors
    /// [`Error::AllProcesses`] in all of them alike, which says what differs in which rank.
    pub(crate) fn check_same_run(&self, facts: &[(&str, String)]) -> Result<()> {
        self.processes.check_same(facts)?;
        self.processes.check_same(&[
            ("configuration of sums", format!("{:?}", self.config)),
            ("instruction set", resnext_ops::Isa::current().training_name().to_string()),
        ])
    }

    /// Checks that synchronised batch norms have a loss in every process. `class_weights` and `images` are by label, and
    /// empty if there are no weights or the images are not known.
    ///
    /// # Errors
    /// [`Error::Config`] if a class with images has weight 0: a process with images of only such classes has no loss.
    pub(crate) fn check_class_weights(&self, class_weights: &[f32], images: &[usize]) -> Result<()> {
        let lost = class_weights.iter().enumerate();
        let lost = lost.filter(|(label, weight)| **weight == 0.0 && images.get(*label) != Some(&0));
        match lost.map(|(label, _)| label).next() {
            Some(label) if self.syncs_norms() => Err(Error::Config(format!(
                "batch norms cannot be synchronised where class {label} has images and weight 0: a process with images \
                 of such classes alone has no loss"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks that all processes have the same values of variables of type f32, which have a name each and one for all.
    ///
    /// # Errors
    /// [`Error::AllProcesses`] in all of them alike, which says which ones differ in which rank.
    pub(crate) fn check_same_values<const N: usize>(
        &self,
        variables: impl FnOnce() -> [(&'static str, Vec<(String, Var)>); N],
    ) -> Result<()> {
        if self.processes.size() == 1 {
            return Ok(());
        }
        for (what, variables) in variables() {
            let mut hasher = DefaultHasher::new();
            for (name, var) in variables {
                hasher.write(name.as_bytes());
                let values = var.as_detached_tensor().flatten_all()?.to_vec1::<f32>()?;
                hasher.write(bytemuck::cast_slice(&values));
            }
            let (name, hash) = (format!("set of {what} (hash)"), format!("{:016x}", hasher.finish()));
            self.processes.check_same(&[(name.as_str(), hash)])?;
        }
        Ok(())
    }
}
