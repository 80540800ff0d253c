#![doc = include_str!("../README.md")]

mod asked;
pub mod block;
mod calibration;
pub mod config;
pub mod convert;
pub mod equivalence;
mod error;
pub mod export;
mod features;
mod fused;
#[cfg(feature = "hub")]
pub mod hub;
mod layers;
mod mode;
mod network;
pub mod presets;
mod pretrained;
mod summary;
mod variables;
mod weights;

pub use calibration::{Calibration, Range, Ranges};
pub use config::{BlockKind, Config, Form, Shortcut, Stem};
pub use error::{Error, Result};
pub use fused::Fused;
pub use mode::Mode;
pub use network::ResNext;
pub use pretrained::{Preprocessing, Pretrained};
pub use summary::{Layer, Summary};
pub use variables::Variables;
pub use weights::{Head, Weights};
