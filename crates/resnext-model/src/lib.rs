#![doc = include_str!("../README.md")]

mod any_network;
mod architecture;
mod attention;
mod baselines;
mod block;
mod calibration;
mod config;
mod config_file;
mod description;
mod drop_path;
mod eca;
mod equal_complexity;
mod error;
mod features;
mod folded;
mod infer;
mod layer_names;
mod layers;
mod mode;
mod network;
mod pools;
mod preprocessing;
mod presets;
mod pretrained;
mod random_function;
mod required_weights;
mod squeeze_excite;
mod summary;
mod torchvision_files;
mod variables;
mod variants;
mod weights;

// Configurations of networks.
pub use architecture::Architecture;
pub use config::{BlockKind, BlockSize, Config, Form, Shortcut, StemKind};
pub use equal_complexity::{Complexity, Template, equal_complexity, path_width, width_for};
pub use summary::{Layer, Summary};
pub use variants::{AntiAlias, Attention, StemConvs};

// The networks that the paper compares ResNeXt with; and any of all these.
pub use any_network::{AnyFused, AnyNetwork};
pub use baselines::{Baseline, BaselineNetwork, FusedBaseline};

// Training: the network, its blocks and its variables.
pub use block::Block;
pub use drop_path::DropPath;
pub use mode::Mode;
pub use network::ResNext;
pub use variables::Variables;

// Inference on a CPU.
pub use calibration::{Calibration, Range, Ranges};
pub use infer::Fused;

// Weights of trained networks.
pub use description::Description;
pub use preprocessing::{CropMode, Preprocessing};
pub use pretrained::Pretrained;
pub use weights::{Head, Weights, weights_mismatch};

pub use error::{Error, Result, json_problem};

// Topics of their own, each under its module's name.
pub mod convert;
pub mod equivalence;
pub mod export;
#[cfg(feature = "hub")]
pub mod hub;
