//! The parts of the check.

use clap::ValueEnum;
use serde::Serialize;

/// A part of the check, in the order in which parts run: what is right first, then what is fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Every operation of a training step, beside the CPU in f64
    Operations,
    /// The proof that the three block forms are equal
    Forms,
    /// The losses of a training run, beside the CPU's
    Losses,
    /// The speed of grouped 3×3 convolutions
    Grouped,
    /// The speed of training steps
    Training,
    /// The speed of inference
    Inference,
}

impl Part {
    /// Whether PyTorch is measured beside it.
    pub fn has_peer(self) -> bool {
        matches!(self, Part::Grouped | Part::Training | Part::Inference)
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}
