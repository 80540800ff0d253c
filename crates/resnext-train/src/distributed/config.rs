//! The settings of training by several processes.

use crate::distributed::sums::Wire;

/// How several processes train together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DistributedConfig {
    /// The type of gradients on their way between processes.
    pub wire: Wire,
    /// Gradients are added up in buckets of at least one tensor and about this many bytes of f32, at least 1.
    pub bucket_bytes: usize,
    /// Whether batch norms use the statistics of the whole batch and not of the process's part of it. CPU only.
    pub sync_norms: bool,
}

/// Sums in f32, in buckets of 25 MiB as PyTorch's, and batch norm by each process's own statistics.
impl Default for DistributedConfig {
    fn default() -> Self {
        DistributedConfig { wire: Wire::F32, bucket_bytes: 25 << 20, sync_norms: false }
    }
}
