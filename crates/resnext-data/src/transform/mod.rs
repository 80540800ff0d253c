//! Random changes to a photo before a network sees it in training, with the same bits as torchvision's over Pillow.
//!
//! To add an operation:
//!
//! 1. Add its variant to [`operation::Operation`], with its pixel arithmetic in `apply`, or a file of its own here for a
//!    step that is no such operation, as [`erasing`] is.
//! 2. Let something choose it: [`rand_augment`] or [`trivial_augment`], or a new field of
//!    [`train::TrainTransform`], which `validate` checks and `finish` applies.
//! 3. Add cases to `scripts/golden/transforms.py`, run it with torchvision (`scripts/golden/README.md`), and read its
//!    figures in `tests/data/transforms.rs`, which compares every pixel.
//! 4. For a new setting, add a field to `PhotoOptions` in `xtask/src/photo_options.rs`, which recipes store, an option of
//!    the same name to `xtask/src/photo_overrides.rs`, and a row to the table in `docs/commands.md`.

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
