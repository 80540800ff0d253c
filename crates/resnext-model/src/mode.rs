//! What lies between a network's convolutions.

/// What a network computes between its convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch norm by this batch's statistics, which it remembers, and ReLU.
    Train,
    /// Batch norm by the running statistics, and ReLU.
    Eval,
    /// Neither: a block is a polynomial of its input and weights, computed modulo an odd prime.
    /// [`equivalence`](crate::equivalence) proves its theorems with it.
    Polynomial {
        /// The prime.
        modulus: u32,
    },
}
