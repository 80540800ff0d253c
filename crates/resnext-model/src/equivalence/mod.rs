//! A proof, by computation, that forms (a), (b) and (c) of figure 3 are one function.
//!
//! - [`identity`](fn@identity) is exact: the forms are evaluated on integers, with the kernels of this
//!   project, and must be equal to the last bit. It comes with a bound on the probability that different
//!   functions pass.
//! - [`channel_functions`] does the same with a random function of each channel in the place of batch norm and ReLU: what
//!   is equal for all of them is equal with batch norm and ReLU.
//! - [`activations`](fn@activations) compares batch norm and ReLU themselves, at single points.
//! - [`kernels`](fn@kernels) compares every kernel with the definition of a convolution, and [`fused_network`] inference
//!   with the training network.
//! - [`layer_errors`], [`output_error`] and [`network_errors`] measure by how much rounding separates the
//!   forms on real numbers, and compare that with a bound.
//! - [`controls`](fn@controls) breaks the forms in several ways, to show that the proof detects each.
//! - [`mutants`](fn@mutants) makes random mistakes, each of which must be caught or be none.
//! - [`prove_equal`] proves any two candle functions equal.
//!
//! `docs/equivalence.md` has the theorems, and says what is not proved.
//!
//! ```
//! use candle_core::{DType, Device};
//! use resnext_model::{Config, equivalence::{Stack, identity}};
//!
//! let config = Config::by_name("resnext11_3x5d")?;
//! let block = &Stack::distinct_blocks(&config)[0];
//! let verdict = identity(block, DType::F64, &Device::Cpu, 1e-15, 42)?;
//! assert_eq!(verdict.tally.bits, 0);
//! assert!(verdict.bound <= 1e-15);
//! # Ok::<(), resnext_model::Error>(())
//! ```

mod activations;
mod controls;
mod distance;
mod equal;
mod functions;
mod identity;
mod kernels;
mod layers;
mod mutants;
mod networks;
mod stack;
mod tally;

pub use activations::activations;
pub use controls::{Control, controls};
pub use distance::epsilon;
pub use equal::{Equality, NotEqual, Place, prove_equal};
pub use functions::Functions;
pub use identity::{Identity, channel_functions, identity};
pub use kernels::{FusedProof, KernelProof, fused_network, fused_types, kernels, layer_count};
pub use layers::{LayerError, layer_errors, output_error};
pub use mutants::{MutantScore, mutants};
pub use networks::{Depth, NetworkErrors, network_errors};
pub use stack::Stack;
pub use tally::{Difference, Tally};
