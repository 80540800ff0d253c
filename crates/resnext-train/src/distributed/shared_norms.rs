//! Batch norm's sums over processes.

use crate::distributed::processes::Processes;
use resnext_ops::BatchSums;
use std::error::Error;
use std::sync::Arc;

/// The exchange of batch norms' sums with the other processes, for one batch.
pub(crate) struct SharedNorms {
    processes: Arc<Processes>,
    share: f64,
}

impl SharedNorms {
    /// For a batch of which this process's part has weight `share` in the loss.
    pub(crate) fn sums(processes: &Arc<Processes>, share: f64) -> Arc<dyn BatchSums> {
        Arc::new(SharedNorms { processes: Arc::clone(processes), share })
    }
}

impl BatchSums for SharedNorms {
    fn sum(&self, values: &mut [f64]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.processes.sum_f64(values, "adding up batch norm's statistics")?)
    }

    fn weight(&self) -> f64 {
        self.share
    }
}
