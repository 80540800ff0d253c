#![doc = include_str!("../README.md")]

mod amp;
pub mod checkpoint;
mod error;
mod metrics;
mod schedule;
mod sgd;
mod step;
mod trainer;

pub use amp::Amp;
pub use checkpoint::{Checkpoint, Progress};
pub use error::{Error, Result};
pub use metrics::Metrics;
pub use schedule::Schedule;
pub use sgd::{Sgd, SgdConfig};
pub use step::{ForwardBackward, forward_backward};
pub use trainer::{
    Batch, BatchReport, Batches, Data, EpochReport, Observer, Outcome, TrainConfig, Trainer, evaluate,
};
