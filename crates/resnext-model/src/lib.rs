#![doc = include_str!("../README.md")]

pub mod block;
mod calibration;
pub mod config;
pub mod convert;
pub mod equivalence;
mod error;
pub mod export;
mod features;
mod folded;
#[cfg(feature = "hub")]
pub mod hub;
mod infer;
mod layers;
mod mode;
mod network;
pub mod presets;
mod pretrained;
mod required_weights;
mod summary;
mod variables;
mod weights;

pub use calibration::{Calibration, Range, Ranges};
pub use config::{BlockKind, Config, Form, Shortcut, Stem};
pub use error::{Error, Result};
pub use infer::Fused;
pub use mode::Mode;
pub use network::ResNext;
pub use pretrained::{Preprocessing, Pretrained};
pub use summary::{Layer, Summary};
pub use variables::Variables;
pub use weights::{Head, Weights};
