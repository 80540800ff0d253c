//! The feature maps that a forward pass writes, reused by later passes.

use resnext_ops::{FeatureMap, InputImages};

/// All buffers of one forward pass.
///
/// Images of one size are computed in the same buffers by the same threads in every pass, so that what a
/// thread writes is in the caches of its own core: fetching it from another core is slow, most of all if the
/// two do not share the last-level cache.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// One set for each image that is computed at the same time.
    pub(super) per_image: Vec<ImageBuffers>,
    pub(super) last_stage: LastStageBuffers,
    /// The last layer's input, (N, 1, 1, features).
    pub(super) features: FeatureMap,
    pub(super) logits: FeatureMap,
}

/// The buffers of one image, from the stem to the last stage but one.
#[derive(Debug, Default)]
pub(super) struct ImageBuffers {
    pub(super) image: InputImages,
    pub(super) stem: StemMaps,
    /// All stages but the last.
    pub(super) stages: Vec<StageMaps>,
}

/// The maps of the stem, each written if the network has that step.
#[derive(Debug, Default)]
pub(super) struct StemMaps {
    /// The output of the last convolution so far.
    pub(super) conv: FeatureMap,
    /// The output of the next convolution, in stems of several.
    pub(super) next: FeatureMap,
    /// The maximum before a blur.
    pub(super) largest: FeatureMap,
    pub(super) pooled: FeatureMap,
    pub(super) quantized: FeatureMap,
}

/// The maps of the last stage, which may compute several images at once.
#[derive(Debug, Default)]
pub(super) struct LastStageBuffers {
    /// The maps of several images, gathered to be the stage's input.
    pub(super) input: FeatureMap,
    pub(super) maps: StageMaps,
}

/// The maps of one stage.
#[derive(Debug, Default)]
pub(super) struct StageMaps {
    /// The output of the block before and so, in the end, of the stage; within the first block, the output of
    /// its projection.
    pub(super) x: FeatureMap,
    /// The output of the current block.
    pub(super) y: FeatureMap,
    /// The output of the current block's first convolution.
    pub(super) after_first: FeatureMap,
    /// The output of the current block's middle convolution.
    pub(super) after_middle: FeatureMap,
    /// The output of the pool that takes the place of the current block's stride.
    pub(super) halved: FeatureMap,
    /// The average that the projection reads.
    pub(super) shortcut: FeatureMap,
}

/// The input of a stage, of which `before` are the stages before it and `stem` is the stem's output; and a
/// map of the same size that may be overwritten, if there is a stage before.
pub(super) fn input_and_spare<'a>(
    stem: &'a FeatureMap,
    before: &'a mut [StageMaps],
) -> (&'a FeatureMap, Option<&'a mut FeatureMap>) {
    match before.last_mut() {
        Some(StageMaps { x, y, .. }) => (x, Some(y)),
        None => (stem, None),
    }
}
