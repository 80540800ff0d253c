//! Keeps two processes from training in one folder.

use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

/// The name of the file that is locked. It is empty and stays in the folder.
const LOCK: &str = "run.lock";

/// A lock on a run's folder. The system gives it up when the process ends, however it ends.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Locks `folder` for this process.
    ///
    /// # Errors
    /// If another process trains there, or the folder is not writable.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK);
        let cannot = || format!("cannot write {}", path.display());
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(&path).with_context(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("another process is training in {}; wait for it, or stop it first", folder.display())
            }
            // Some network file systems have no locks. Training there is better than refusing to.
            Err(TryLockError::Error(error)) => {
                eprintln!(
                    "warning: {} cannot be locked ({error}); start no second run there",
                    path.display()
                );
            }
        }
        Ok(RunLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_until_the_lock_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let lock = RunLock::take(folder.path()).unwrap();
        let refused = RunLock::take(folder.path()).unwrap_err().to_string();
        assert!(refused.starts_with("another process is training in "), "{refused}");
        drop(lock);
        RunLock::take(folder.path()).unwrap();
        let refused = RunLock::take(&folder.path().join("none")).unwrap_err().to_string();
        assert!(refused.contains("none/run.lock"), "{refused}");
    }
}
