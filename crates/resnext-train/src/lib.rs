#![doc = include_str!("../README.md")]

mod amp;
pub mod checkpoint;
mod config;
mod data;
mod error;
mod evaluate;
mod metrics;
mod observer;
mod schedule;
mod sgd;
mod step;
mod trainer;

pub use amp::Amp;
pub use checkpoint::{Checkpoint, Progress};
pub use config::TrainConfig;
pub use data::{Batch, Batches, Data};
pub use error::{Error, Result};
pub use evaluate::evaluate;
pub use metrics::Metrics;
pub use observer::{BatchReport, EpochReport, Observer};
pub use schedule::Schedule;
pub use sgd::{Sgd, SgdConfig};
pub use step::{ForwardBackward, forward_backward};
pub use trainer::{Outcome, Trainer};
