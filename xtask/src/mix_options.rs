//! How the images of a batch are mixed: the recipe's table `[mix]`.

use clap::Args;
use resnext_data::transform::mix::Mix;
use serde::{Deserialize, Serialize};

/// Mixup and CutMix. By default both are off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MixOptions {
    /// The parameter of mixup's Beta distribution, such as 0.2; 0 turns mixup off.
    pub mixup: f64,
    /// The parameter of CutMix's, such as 1; 0 turns CutMix off.
    pub cutmix: f64,
    /// The probability that a batch is mixed.
    pub probability: f64,
    /// The probability of CutMix where both are on.
    pub switch: f64,
    /// The number of epochs after which nothing is mixed any more; without it, all epochs are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
}

/// timm's defaults, with both off.
impl Default for MixOptions {
    fn default() -> Self {
        MixOptions { mixup: 0.0, cutmix: 0.0, probability: 1.0, switch: 0.5, epochs: None }
    }
}

impl From<MixOptions> for Mix {
    fn from(options: MixOptions) -> Self {
        let MixOptions { mixup, cutmix, probability, switch, epochs } = options;
        Mix { mixup, cutmix, probability, switch, until: epochs }
    }
}

/// The settings of mixing that the command line can override.
#[derive(Args, Debug, Default, Clone)]
pub struct MixOverrides {
    /// Mixup: blend each image of a batch with another one; the parameter of its Beta distribution, such as 0.2,
    /// or 0 for off
    #[arg(long)]
    mixup: Option<f64>,
    /// CutMix: paste a part of another image of the batch; the parameter of its Beta distribution, such as 1, or 0
    /// for off
    #[arg(long)]
    cutmix: Option<f64>,
    /// Probability that a batch is mixed [default: 1]
    #[arg(long)]
    mix_probability: Option<f64>,
    /// Probability of CutMix where --mixup is on, too [default: 0.5]
    #[arg(long)]
    mix_switch: Option<f64>,
    /// Mix in the first epochs only, such as 80 of 100 [default: in all]
    #[arg(long)]
    mix_epochs: Option<u64>,
}

impl MixOverrides {
    /// Replaces settings by those of the command line.
    pub fn apply(&self, options: &mut Option<MixOptions>) {
        let MixOverrides { mixup, cutmix, mix_probability, mix_switch, mix_epochs } = *self;
        let given = [mixup, cutmix, mix_probability, mix_switch].iter().any(Option::is_some);
        if !given && mix_epochs.is_none() {
            return;
        }
        let options = options.get_or_insert_default();
        options.mixup = mixup.unwrap_or(options.mixup);
        options.cutmix = cutmix.unwrap_or(options.cutmix);
        options.probability = mix_probability.unwrap_or(options.probability);
        options.switch = mix_switch.unwrap_or(options.switch);
        options.epochs = mix_epochs.or(options.epochs);
    }
}
