//! Training of one network by several processes, each on its own part of every batch.
//!
//! All processes hold the same weights, optimizer state and running statistics at every step, so a checkpoint of one
//! is a checkpoint of all, and a run continues with another number of processes. Sums run over the processes in the
//! order of their ranks: a run repeats bit for bit with the same number of processes.

pub(crate) mod config;
pub(crate) mod data_parallel;
pub(crate) mod gradients;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
pub(crate) mod processes;
pub(crate) mod shared_batch;
pub(crate) mod shared_norms;
mod sums;
mod threads;
mod transport;

pub use config::DistributedConfig;
pub use gradients::ExchangeTimes;
pub use processes::{Pending, Processes, SumTime};
pub use sums::Wire;
