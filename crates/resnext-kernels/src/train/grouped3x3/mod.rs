//! Grouped 3×3 convolutions with padding 1 and stride 1 or 2, as training needs them: forward, the gradient of
//! the input, the gradient of the weight.
//!
//! A task takes some rows of an image as bordered planes ([`super::packing`]). A register tile is a run of
//! neighbours in a row times one vector of channels; what is brought to a register of a source pixel serves all
//! three columns of the kernel. Where a vector spans several groups, a permute brings a lane its group's channel;
//! in wider groups a broadcast does. [`crate::winograd`] computes what it takes of those.

pub(crate) mod forward;
pub(crate) mod walk;
pub(crate) mod weight_gradient;
