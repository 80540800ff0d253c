#![doc = include_str!("../README.md")]

mod augment;
pub mod cifar;
mod dataset;
mod error;
mod loader;
pub mod synthetic;

pub use augment::Augmentation;
pub use dataset::{CHANNELS, Dataset, Normalization, Splits};
pub use error::{Error, Result};
pub use loader::{Batch, Batches, Loader, LoaderConfig};
