#![doc = include_str!("../README.md")]

pub mod block;
pub mod config;
pub mod convert;
pub mod equivalence;
mod error;
mod fused;
mod layers;
mod mode;
mod network;
pub mod presets;
mod summary;
mod variables;
mod weights_file;

pub use config::{Config, Form, Shortcut, Stem};
pub use error::{Error, Result};
pub use fused::Fused;
pub use mode::Mode;
pub use network::ResNext;
pub use summary::{Layer, Summary};
pub use variables::Variables;
pub use weights_file::weights_file;
