//! Grouped 3×3 convolutions with padding 1 and stride 1 or 2 in training: forward, the gradient of the input and the
//! gradient of the weight.
//!
//! A task packs some rows of an image into planes with a border of zeros ([`super::packing`]). A register tile is a run of
//! neighbours in a row times one vector of channels; a source pixel that is loaded once serves all three columns of the
//! kernel. Where a vector spans several groups, a permute brings each lane its group's channel; in wider groups it is
//! broadcast. Wide groups of stride 1 are computed by [`crate::winograd`] instead.

pub(crate) mod forward;
pub(crate) mod walk;
pub(crate) mod weight_gradient;
