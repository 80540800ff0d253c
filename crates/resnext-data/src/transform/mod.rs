//! What is done to a photo before a network sees it in training.

pub mod color_jitter;
pub mod crop;
pub mod erasing;
mod gaussian;
pub mod lighting;
pub mod mix;
pub mod operation;
pub mod policy;
pub mod rand_augment;
pub mod train;
pub mod trivial_augment;
