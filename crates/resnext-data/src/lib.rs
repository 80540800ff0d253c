#![doc = include_str!("../README.md")]

mod augment;
pub mod cifar;
mod dataset;
mod error;
mod evaluation;
pub mod heatmap;
pub mod imagenet;
mod loader;
mod photo;
mod photo_loader;
mod resample;
pub mod synthetic;

pub use augment::Augmentation;
pub use dataset::{CHANNELS, Dataset, Normalization, Splits};
pub use error::{Error, Result};
pub use evaluation::{EvalTransform, Window};
pub use loader::{Batch, Batches, Loader, LoaderConfig};
pub use photo::{PIXEL_LIMIT, Photo};
pub use photo_loader::{PhotoLoader, Sample};
pub use resample::Interpolation;
