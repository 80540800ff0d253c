//! How an optimizer treats a parameter, by its name and shape.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The parameters that weight decay applies to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecayOf {
    /// All parameters, as in the paper's released code.
    #[default]
    All,
    /// Weights of convolutions and of the last layer, but neither batch norms nor biases (He et al., "Bag of
    /// tricks", arXiv 1812.01187, section 3.1).
    Weights,
}

/// How a step changes one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParameterGroup {
    /// The multiple of the learning rate.
    pub rate: f64,
    /// Whether the weight decays.
    pub decay: bool,
}

impl Default for ParameterGroup {
    fn default() -> Self {
        ParameterGroup { rate: 1.0, decay: true }
    }
}

/// Checks that a weight decay is in range.
pub(crate) fn check_decay(weight_decay: f64) -> Result<()> {
    match weight_decay >= 0.0 && weight_decay.is_finite() {
        true => Ok(()),
        false => Err(Error::Config(format!("weight decay must be at least 0, got {weight_decay}"))),
    }
}

/// Rules that give each parameter its group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rules {
    pub decay_of: DecayOf,
    /// The factor of the learning rate from one stage to the one before it.
    pub layer_decay: f64,
    /// The number of stages.
    pub stages: usize,
}

impl Rules {
    /// The group of the parameter of this name and shape. The last layer has the whole learning rate, the
    /// last stage `layer_decay` times it, and so on down to the stem.
    pub(crate) fn group(&self, name: &str, dims: &[usize]) -> ParameterGroup {
        let depth = depth(name, self.stages);
        let rate = self.layer_decay.powi((self.stages + 1 - depth) as i32);
        ParameterGroup { rate, decay: self.decay_of == DecayOf::All || dims.len() > 1 }
    }
}

/// 0 for the stem, the number of the stage, or one more than the last for the head.
fn depth(name: &str, stages: usize) -> usize {
    if name.starts_with("fc.") {
        return stages + 1;
    }
    let stage = name.strip_prefix("layer").and_then(|rest| rest.split('.').next());
    stage.and_then(|number| number.parse().ok()).unwrap_or(0).min(stages)
}

impl FromStr for DecayOf {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "all" => Ok(DecayOf::All),
            "weights" => Ok(DecayOf::Weights),
            _ => Err(Error::Config(format!("weight decay is of `all` or `weights`, not `{text}`"))),
        }
    }
}

impl fmt::Display for DecayOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DecayOf::All => "all",
            DecayOf::Weights => "weights",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_fall_from_the_head_to_the_stem_and_decay_is_of_weights() {
        let rules = Rules { decay_of: DecayOf::Weights, layer_decay: 0.5, stages: 4 };
        let group = |name, dims: &[usize]| {
            let ParameterGroup { rate, decay } = rules.group(name, dims);
            (rate, decay)
        };
        assert_eq!(group("fc.weight", &[10, 64]), (1.0, true));
        assert_eq!(group("fc.bias", &[10]), (1.0, false));
        assert_eq!(group("layer4.2.conv3.weight", &[64, 64, 1, 1]), (0.5, true));
        assert_eq!(group("layer1.0.downsample.1.weight", &[64]), (0.0625, false));
        assert_eq!(group("conv1.weight", &[64, 3, 7, 7]), (0.03125, true));
        let usual = Rules { decay_of: DecayOf::All, layer_decay: 1.0, stages: 3 };
        assert_eq!(usual.group("bn1.bias", &[64]), ParameterGroup::default());
    }
}
