//! The proof that forms (a), (b) and (c) of figure 3 compute one function, to be run.
//!
//! [`identity`](fn@identity) is exact: integers through the project's kernels, equal to the last bit, and a bound on
//! the chance that unequal functions pass. [`activations`](fn@activations) does the same with batch norm and ReLU.
//! [`layer_errors`] and [`network_errors`] measure what rounding does to real numbers, and
//! [`controls`](fn@controls) breaks the forms in every way we could think of, to see that it shows.
//! `docs/equivalence.md` has the theorems and says what is not proved.
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
mod identity;
mod layers;
mod networks;
mod stack;
mod tally;

pub use activations::activations;
pub use controls::{Control, controls};
pub use distance::epsilon;
pub use identity::{Identity, identity};
pub use layers::{LayerError, layer_errors, output_error};
pub use networks::{Depth, NetworkErrors, network_errors};
pub use stack::Stack;
pub use tally::{Difference, Tally};
