//! What a forward pass writes to, kept from one pass to the next.

use resnext_ops::{Activations, Images};

/// What a forward pass writes to.
///
/// A thread has the same part of all maps of one size, and then writes where it wrote in the pass before, too: what lies in
/// the caches of another thread's core is slow to get, most of all if they do not share the last one.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// Of the images that are computed at the same time, one each.
    pub(super) per_image: Vec<ImageBuffers>,
    /// What the last stage reads, of several images, and its maps.
    pub(super) together: Activations,
    pub(super) last: Maps,
    pub(super) features: Activations,
    pub(super) logits: Activations,
}

/// What is written for an image by itself.
#[derive(Debug, Default)]
pub(super) struct ImageBuffers {
    pub(super) images: Images,
    /// From the first convolution to what the first block reads, which is number `Fused::stem_output`.
    pub(super) stem: [Activations; 3],
    /// Of all stages but the last.
    pub(super) stages: Vec<Maps>,
}

/// Maps of one stage.
#[derive(Debug, Default)]
pub(super) struct Maps {
    /// The last block's output; within the first block, what its projection makes.
    pub(super) x: Activations,
    /// The output of the block that is computed.
    pub(super) y: Activations,
    /// What a block's first convolution makes, and what the one between it and the last does.
    pub(super) opened: Activations,
    pub(super) inner: Activations,
}

/// What a stage reads, of those before it or of the stem; and a map of the same size that it may write to, which the stage
/// before it has no more use for.
pub(super) fn source_of<'a>(
    stem: &'a Activations,
    before: &'a mut [Maps],
) -> (&'a Activations, Option<&'a mut Activations>) {
    match before.last_mut() {
        Some(Maps { x, y, .. }) => (x, Some(y)),
        None => (stem, None),
    }
}
