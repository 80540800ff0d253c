//! Work on each block of an output right after it is written, while it is still in the core's cache: bias, batch norm's
//! statistics, or the gradient of the ReLU before.

use super::batch_norm::{GradientSums, Moments};
use super::operand::Gate;
use super::strided_gradient::StridedGradient;
use crate::simd::dispatch::Isa;
use crate::simd::traits::{Element, Storage};

/// The work on each block of pixels of an output.
#[derive(Debug, Clone, Copy)]
pub enum BlockSink<'a, D: Storage> {
    /// No further work.
    Output,
    /// Adds a bias (channels).
    Bias(&'a [D::Compute]),
    /// Computes the mean and variance of each channel, for the batch norm after a convolution.
    Statistics,
    /// The output is a gradient: passes it back through a ReLU, and computes the sums that the batch norm before the ReLU
    /// needs.
    Gate(Gate<'a, D>),
    /// Adds the gradient of another branch.
    Add(StridedGradient<'a, D>),
}

/// The result of a sink for one block.
#[derive(Debug)]
pub enum BlockSums<T> {
    /// The result of a sink that computes nothing.
    Nothing,
    /// The result of [`BlockSink::Statistics`].
    Moments(Moments<T>),
    /// The result of [`BlockSink::Gate`].
    Gradient(GradientSums<T>),
}

/// The results of a sink for all blocks of an output, in order.
pub type Blocks<D> = Vec<BlockSums<<D as Storage>::Compute>>;

/// The results of a sink for all blocks, merged in order. Fields of other sinks are empty.
#[derive(Debug, Default)]
pub struct BlockTotals {
    /// From [`BlockSink::Statistics`]: the mean and biased variance of each channel.
    pub statistics: (Vec<f64>, Vec<f64>),
    /// From [`BlockSink::Gate`]: `Σ g` and `Σ g·(x - mean)` per channel.
    pub gradient_sums: [Vec<f64>; 2],
}

impl<D: Storage> BlockSink<'_, D> {
    /// Processes a block of whole pixels of `channels`, which starts at pixel `first` of the output.
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
    /// Merges the results of an output's blocks.
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
