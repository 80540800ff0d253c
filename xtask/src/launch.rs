//! The processes of a command that an MPI launcher has started, and how they begin and end together.

use crate::error_line::error_line;
use anyhow::Result;
use resnext_train::distributed::Processes;
use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::ExitCode;
use std::sync::Arc;
#[cfg(feature = "mpi")]
use std::time::Duration;

/// Environment variables that Open MPI, MPICH and PMIx set in the processes that they start.
#[cfg(feature = "mpi")]
const LAUNCHED: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"];

/// The number of processes, as Open MPI, MPICH and Slurm's `srun` tell it.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// The number of processes that a launcher says it has started; 1 without a launcher.
fn launched_processes() -> usize {
    let sizes = SIZES.iter().filter_map(|name| std::env::var(name).ok()?.parse().ok());
    sizes.max().unwrap_or(1)
}

/// All processes of the command, of which this is one; a single one if no launcher has started it.
pub struct Launch {
    pub processes: Arc<Processes>,
    /// Whether the others know how this process's preparations ended.
    ready: Cell<bool>,
    /// Whether a launcher has started this process.
    #[cfg(feature = "mpi")]
    pub launched: bool,
}

impl Launch {
    /// Joins the other processes. One that does not answer for `timeout` later on ends them all.
    #[cfg(feature = "mpi")]
    pub fn start(timeout: Duration) -> Result<Self> {
        let launched = LAUNCHED.iter().any(|name| std::env::var_os(name).is_some());
        anyhow::ensure!(
            launched || launched_processes() <= 1,
            "srun has started several processes without MPI; use srun --mpi=pmix or srun --mpi=pmi2"
        );
        let processes = if launched { Processes::mpi(timeout)? } else { Processes::single() };
        Ok(Launch { processes: Arc::new(processes), ready: Cell::new(false), launched })
    }

    /// A single process. Several, which would all do the same, are refused.
    #[cfg(not(feature = "mpi"))]
    pub fn start() -> Result<Self> {
        anyhow::ensure!(
            launched_processes() <= 1 && !std::env::var("PMIX_RANK").is_ok_and(|rank| rank != "0"),
            "an MPI launcher has started several processes, but this program is built without MPI; \
             build it with `cargo build --release -p xtask --features mpi`"
        );
        Ok(Launch { processes: Arc::new(Processes::single()), ready: Cell::new(false) })
    }

    /// Whether this process prints and writes files for all.
    pub fn leads(&self) -> bool {
        self.processes.rank() == 0
    }

    /// Waits until all processes have prepared their run.
    ///
    /// # Errors
    /// In all processes alike, if one could not, or runs another program.
    pub fn all_are_ready(&self) -> Result<()> {
        self.tell(None)
    }

    /// The command's result, of which an error is printed by one process only; this one's own error ends all.
    pub fn end(&self, result: Result<ExitCode>) -> Result<ExitCode> {
        let Err(error) = result else { return result };
        if self.processes.size() == 1 {
            return Err(error);
        }
        let error = match self.ready.get() {
            true => error,
            false => self.tell(Some(error_line(&error))).err().unwrap_or(error),
        };
        let shared =
            error.downcast_ref::<resnext_train::Error>().is_some_and(resnext_train::Error::is_shared);
        match (shared, self.leads()) {
            // Printed here: when this process has left MPI, the launcher may end it because another has failed.
            (true, true) => {
                eprintln!("error: {}", error_line(&error));
                Ok(ExitCode::FAILURE)
            }
            (true, false) => Ok(ExitCode::FAILURE),
            (false, _) => {
                // In one write, which the launcher's own messages cannot part.
                let line = format!("error: rank {}: {}\n", self.processes.rank(), error_line(&error));
                eprint!("{line}");
                self.processes.abort()
            }
        }
    }

    /// Tells all how this process's preparations ended.
    fn tell(&self, problem: Option<String>) -> Result<()> {
        self.ready.set(true);
        if self.processes.size() == 1 {
            return Ok(());
        }
        self.processes.check_same(&[("program (hash)", program_hash())])?;
        let all = self.processes.gather(problem.unwrap_or_default().as_bytes(), "preparing the run")?;
        let Some(rank) = all.iter().position(|problem| !problem.is_empty()) else { return Ok(()) };
        let text = String::from_utf8_lossy(&all[rank]);
        let text = match all.iter().all(|problem| *problem == all[rank]) {
            true => text.into_owned(),
            false => format!("rank {rank}: {text}"),
        };
        Err(resnext_train::Error::AllProcesses(text).into())
    }
}

/// A hash of this program's file.
fn program_hash() -> String {
    let bytes = std::env::current_exe().and_then(std::fs::read);
    bytes.map_or_else(
        |error| error.to_string(),
        |bytes| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            format!("{:016x}", hasher.finish())
        },
    )
}
