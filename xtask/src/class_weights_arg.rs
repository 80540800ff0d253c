//! `--class-weights`: how much each class counts in the loss.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    /// Every image counts the same
    #[default]
    None,
    /// Every class counts the same, however many images it has
    Balanced,
}

impl ClassWeights {
    pub fn is_none(&self) -> bool {
        *self == ClassWeights::None
    }

    /// The weights for classes of these `counts` of training images; none at all if every image counts the same.
    pub fn of(self, counts: &[usize]) -> Vec<f32> {
        match self {
            ClassWeights::None => Vec::new(),
            ClassWeights::Balanced => resnext_data::class_weights(counts),
        }
    }
}
