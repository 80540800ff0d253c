#![doc = include_str!("../README.md")]

mod augment;
pub mod cifar;
mod contact_sheet;
mod dataset;
mod error;
mod evaluation;
pub mod heatmap;
mod image_folder;
mod image_loader;
mod image_set;
pub mod imagenet;
mod loader;
mod normalize;
mod photo;
mod photo_loader;
mod random_stream;
mod resample;
mod shards;
pub mod synthetic;
pub mod transform;
mod validation_split;

pub use augment::Augmentation;
pub use contact_sheet::contact_sheet;
pub use dataset::{CHANNELS, Dataset, Normalization, Splits};
pub use error::{Error, Result};
pub use evaluation::{EvalTransform, Resize, Window};
pub use image_folder::{ImageFolder, PHOTO_ENDINGS};
pub use image_loader::{ImageBatches, ImageLoader, ImageLoaderConfig, Preparation};
pub use image_set::ImageSet;
pub use loader::{Batch, Batches, Loader, LoaderConfig};
pub use photo::{PIXEL_LIMIT, Photo};
pub use photo_loader::{PhotoLoader, Sample};
pub use resample::Interpolation;
pub use shards::Shards;
pub use validation_split::ValidationSplit;
