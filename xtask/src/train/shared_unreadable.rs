//! Photos that cannot be read, of which each process finds those of its own part.

use crate::loaders::Loaders;
use resnext_train::distributed::Processes;
use resnext_train::{Error, Result};
use std::sync::Arc;

/// What processes tell each other at the end of an epoch.
pub struct SharedUnreadable<'a> {
    processes: Arc<Processes>,
    loaders: &'a Loaders,
}

impl<'a> SharedUnreadable<'a> {
    /// `loaders` are this process's.
    pub fn new(processes: &Arc<Processes>, loaders: &'a Loaders) -> Self {
        SharedUnreadable { processes: Arc::clone(processes), loaders }
    }

    /// Has the loaders of all processes know what any of them has found. To be called by all.
    ///
    /// # Errors
    /// In all alike, if no photo of a class can be read.
    pub fn exchange(&self) -> Result<()> {
        if self.processes.size() == 1 || !self.loaders.may_be_unreadable() {
            return Ok(());
        }
        let data = |error: serde_json::Error| Error::Data(Box::new(error));
        let own = serde_json::to_vec(&self.loaders.unreadable_photos()).map_err(data)?;
        for of_rank in self.processes.gather(&own, "collecting unreadable photos")? {
            self.loaders.add_unreadable(serde_json::from_slice(&of_rank).map_err(data)?);
        }
        self.loaders.lost_class().map_or(Ok(()), |problem| Err(Error::AllProcesses(problem)))
    }
}
