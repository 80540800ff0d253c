//! One stage of packed blocks in form (c).

use super::buffers::StageMaps;
use crate::attention::FoldedAttention;
use crate::error::Result;
use crate::pools::HALVING;
use crate::variants::AntiAlias;
use resnext_ops::{FeatureMap, FusedConv, Fusion, ThreadTeam};

/// Called after each layer with its name and output; for `input`, with the first map that will be written.
pub(super) type Observer<'a> = dyn FnMut(&str, &FeatureMap) + 'a;

/// Halves the sides of `map` into `out`.
fn halve(team: &ThreadTeam, kind: AntiAlias, map: &FeatureMap, out: &mut FeatureMap) -> Result<()> {
    match kind {
        AntiAlias::None => out.clone_from(map),
        AntiAlias::Average => map.avg_pool(team, &HALVING, out)?,
        AntiAlias::Blur => map.blur_pool(team, 2, out)?,
    }
    Ok(())
}

/// A stage of blocks.
#[derive(Debug)]
pub(super) struct FusedStage {
    /// The shortcut's convolution in the first block, the only one that may change shapes, and its name.
    pub(super) projection: Option<(String, FusedConv)>,
    /// Whether that convolution reads an average over 2×2 pixels.
    pub(super) pooled_shortcut: bool,
    /// Whether the first block's first convolution keeps the size of the map, and a later one has the stride.
    pub(super) stride_in_middle: bool,
    pub(super) blocks: Vec<FusedBlock>,
}

/// The convolutions of one block.
#[derive(Debug)]
pub(super) struct FusedBlock {
    /// For example `layer1.0`.
    pub(super) name: String,
    pub(super) first: FusedConv,
    /// `None` in basic blocks.
    pub(super) middle: Option<FusedConv>,
    pub(super) last: FusedConv,
    /// The pool that takes the place of the stride, after the middle convolution, or the first of two.
    pub(super) anti_alias: Option<AntiAlias>,
    /// The attention that multiplies the channels before the shortcut is added.
    pub(super) attention: Option<FoldedAttention>,
    /// Whether the shortcut, or the block's input, is added to the last convolution's output.
    pub(super) residual: bool,
}

impl FusedStage {
    /// Runs all blocks on `input`, and leaves the result in `maps.x`. `spare`, if given, is a map of the
    /// input's size that may be overwritten; `next` is the convolution after the stage, whose weights are
    /// prefetched.
    pub(super) fn forward(
        &self,
        team: &ThreadTeam,
        input: &FeatureMap,
        mut spare: Option<&mut FeatureMap>,
        StageMaps { x, y, after_first, after_middle, halved, shortcut: average }: &mut StageMaps,
        next: &FusedConv,
        observe: &mut Observer,
    ) -> Result<()> {
        let relu = Fusion { relu: true, ..Default::default() };
        for (i, block) in self.blocks.iter().enumerate() {
            let FusedBlock { name, first, middle, last, anti_alias, attention, residual } = block;
            let projection = self.projection.as_ref().filter(|_| i == 0);
            let source = if i == 0 { input } else { &*x };
            // Before the stride, the first block's maps are of the input's size: they go where the last stage
            // wrote, which is still in the cache.
            let after_first = spare.take().filter(|_| self.stride_in_middle).unwrap_or(&mut *after_first);
            // Weights to prefetch, in the order of their use. A grouped convolution in the middle is too
            // short to prefetch much, so its neighbours do.
            let ahead: Vec<_> =
                middle.iter().chain(projection.map(|(_, projection)| projection)).chain([last]).collect();
            first.forward(team, source, Fusion { ahead: &ahead, ..relu }, after_first)?;
            observe(&format!("{name}.conv1"), after_first);
            let mut inner = match middle {
                Some(middle) => {
                    middle.forward(team, after_first, relu, after_middle)?;
                    observe(&format!("{name}.conv2"), after_middle);
                    &*after_middle
                }
                None => &*after_first,
            };
            if let Some(kind) = anti_alias {
                halve(team, *kind, inner, halved)?;
                inner = halved;
            }
            let shortcut = match projection {
                Some((name, projection)) => {
                    let mut input = input;
                    if self.pooled_shortcut {
                        input.avg_pool(team, &HALVING, average)?;
                        input = average;
                    }
                    projection.forward(team, input, Fusion::default(), x)?;
                    observe(name, x);
                    &*x
                }
                None => source,
            };
            let ahead = [self.blocks.get(i + 1).map_or(next, |next| &next.first)];
            match attention {
                None => {
                    let residual = residual.then_some(shortcut);
                    last.forward(team, inner, Fusion { residual, ahead: &ahead, ..relu }, y)?;
                }
                Some(attention) => {
                    last.forward(team, inner, Fusion { ahead: &ahead, ..Default::default() }, y)?;
                    let factors = attention.factors(&y.global_avg_pool(), y.size()[3]);
                    y.gate_add_relu(team, &factors, shortcut)?;
                }
            }
            observe(&format!("{name}.conv{}", if middle.is_some() { 3 } else { 2 }), y);
            std::mem::swap(x, y);
        }
        Ok(())
    }

    /// The size of the packed weights in bytes.
    pub(super) fn bytes(&self) -> usize {
        let block = |block: &FusedBlock| {
            let middle = block.middle.as_ref().map_or(0, FusedConv::bytes);
            let attention = block.attention.as_ref().map_or(0, FoldedAttention::bytes);
            block.first.bytes() + middle + block.last.bytes() + attention
        };
        let projection = self.projection.as_ref().map_or(0, |(_, projection)| projection.bytes());
        projection + self.blocks.iter().map(block).sum::<usize>()
    }
}
