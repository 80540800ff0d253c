//! What happens to each block of an output while it is still in the cache of the core that has written it.

use super::batch_norm::{GradientSums, Moments};
use super::operand::Gate;
use super::strided_gradient::StridedGradient;
use crate::simd::dispatch::Isa;
use crate::simd::traits::{Element, Storage};

/// What happens to each block of pixels of an output.
#[derive(Debug, Clone, Copy)]
pub enum BlockSink<'a, D: Storage> {
    /// Nothing: the output alone is wanted.
    Output,
    /// A bias per channel is added.
    Bias(&'a [D::Compute]),
    /// Mean and variance of each channel are taken, for the batch norm behind a convolution.
    Statistics,
    /// The block is a gradient and goes back through a batch norm and ReLU, whose sums are taken.
    Gate(Gate<'a, D>),
    /// The gradient of another branch is added.
    Add(StridedGradient<'a, D>),
}

/// What a sink has taken from a block.
#[derive(Debug)]
pub enum BlockSums<T> {
    /// Nothing.
    Nothing,
    /// Of [`BlockSink::Statistics`].
    Moments(Moments<T>),
    /// Of [`BlockSink::Gate`].
    Gradient(GradientSums<T>),
}

/// What a sink has taken from all blocks, merged in their order.
#[derive(Debug, Default)]
pub struct BlockTotals {
    /// Of [`BlockSink::Statistics`]: mean and biased variance per channel.
    pub statistics: (Vec<f64>, Vec<f64>),
    /// Of [`BlockSink::Gate`]: `Σ g` and `Σ g·(x - mean)` per channel.
    pub gradient_sums: [Vec<f64>; 2],
}

impl<D: Storage> BlockSink<'_, D> {
    /// Takes a block of whole pixels of `channels`, which begins at pixel `first` of the output.
    pub(crate) fn take(
        &self,
        isa: Isa,
        channels: usize,
        first: usize,
        block: &mut [D],
    ) -> BlockSums<D::Compute> {
        match self {
            BlockSink::Output => BlockSums::Nothing,
            BlockSink::Bias(bias) => {
                for pixel in block.chunks_exact_mut(channels) {
                    for (y, &b) in pixel.iter_mut().zip(*bias) {
                        let mut wide = y.widen();
                        wide += b;
                        *y = D::narrow(wide);
                    }
                }
                BlockSums::Nothing
            }
            BlockSink::Statistics => BlockSums::Moments(Moments::of(isa, block, channels)),
            BlockSink::Gate(gate) => BlockSums::Gradient(GradientSums::gate(isa, gate, first, block)),
            BlockSink::Add(other) => {
                other.add(isa, first, block);
                BlockSums::Nothing
            }
        }
    }
}

impl BlockTotals {
    /// Merges what was taken from the blocks of an output with `channels`.
    pub(crate) fn of<T: Element>(channels: usize, blocks: Vec<BlockSums<T>>) -> Self {
        let (mut moments, mut sums) = (Vec::new(), Vec::new());
        for block in blocks {
            match block {
                BlockSums::Nothing => {}
                BlockSums::Moments(own) => moments.push(own),
                BlockSums::Gradient(own) => sums.push(own),
            }
        }
        let statistics =
            if moments.is_empty() { Default::default() } else { Moments::merge(channels, &moments) };
        BlockTotals { statistics, gradient_sums: GradientSums::total(&sums) }
    }
}
