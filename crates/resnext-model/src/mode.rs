//! The modes in which a network computes.

/// The functions that a network computes between its convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Training: batch norm with the statistics of this batch, which also update the running ones, and ReLU.
    Train,
    /// Evaluation: batch norm with the running statistics, and ReLU.
    Eval,
    /// Neither batch norm nor ReLU, so that a block is a polynomial of its input and weights, computed modulo
    /// an odd prime. The exact proof in [`equivalence`](crate::equivalence) uses it.
    Polynomial {
        /// The prime.
        modulus: u32,
    },
    /// A random function of each channel in the place of batch norm and of ReLU, modulo an odd prime: section 3 of
    /// `docs/equivalence.md`. A batch norm's parameters, which must be integers, name its functions.
    ChannelFunctions {
        /// The prime.
        modulus: u32,
    },
}
