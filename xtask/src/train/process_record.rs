//! How the processes of a run train together, as its checkpoints record it: it is in no recipe, and a run may go on in
//! another way.

use resnext_train::distributed::DistributedConfig;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The processes that a run was trained by, in a checkpoint's metadata. A checkpoint of a single process has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    processes: usize,
    /// The type of gradients between them.
    wire: String,
    /// Whether batch norm is over the whole batch.
    sync_bn: bool,
}

impl ProcessRecord {
    /// Its key in a checkpoint's metadata.
    pub const KEY: &str = "resnext.processes";

    pub fn new(processes: usize, config: &DistributedConfig) -> Self {
        ProcessRecord {
            processes,
            wire: config.wire.to_string(),
            sync_bn: config.sync_norms || processes == 1,
        }
    }

    /// That of a checkpoint, from the entry of its metadata.
    pub fn read(entry: Option<&String>) -> Self {
        let single = ProcessRecord::new(1, &DistributedConfig::default());
        entry.and_then(|json| serde_json::from_str(json).ok()).unwrap_or(single)
    }

    /// The entry of a checkpoint's metadata; `None` for a single process.
    pub fn entry(&self) -> Option<String> {
        (self.processes > 1).then(|| serde_json::json!(self).to_string())
    }

    /// What differs in a run that `self` has trained and `now` goes on with, a line each.
    pub fn changes(&self, now: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.processes != now.processes {
            lines.push(format!("processes from {} to {}", self.processes, now.processes));
        }
        if self.wire != now.wire && self.processes.min(now.processes) > 1 {
            lines.push(format!("gradients between processes from {} to {}", self.wire, now.wire));
        }
        if self.sync_bn != now.sync_bn {
            lines.push(format!("batch norm over {}, no longer over {}", now.norms(), self.norms()));
        }
        lines
    }

    fn norms(&self) -> &'static str {
        if self.sync_bn { "the whole batch" } else { "the process's part of the batch" }
    }
}

impl fmt::Display for ProcessRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProcessRecord { processes, wire, .. } = self;
        write!(
            f,
            "{processes} processes share each batch; gradients are added up in {wire}, batch norm is over {}",
            self.norms()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use resnext_train::distributed::Wire;

    /// A run of two processes goes on with one, with four and in bf16: what changes is said, and nothing else.
    #[test]
    fn a_change_of_processes_is_said() {
        let of = |processes, sync_norms, wire| {
            ProcessRecord::new(processes, &DistributedConfig { sync_norms, wire, ..Default::default() })
        };
        let two = of(2, false, Wire::F32);
        assert_eq!(ProcessRecord::read(two.entry().as_ref()), two);
        let one = ProcessRecord::read(None);
        assert_eq!((one.entry(), one.changes(&one)), (None, vec![]));
        assert_eq!(
            two.changes(&one),
            [
                "processes from 2 to 1",
                "batch norm over the whole batch, no longer over the process's part of the batch"
            ]
        );
        assert_eq!(of(2, true, Wire::F32).changes(&one), ["processes from 2 to 1"]);
        assert_eq!(two.changes(&of(4, false, Wire::F32)), ["processes from 2 to 4"]);
        assert_eq!(two.changes(&of(2, false, Wire::Bf16)), ["gradients between processes from f32 to bf16"]);
    }
}
