//! Runs that start from trained weights.

use crate::network_name::{described, network_name};
use crate::recipe::Recipe;
use crate::weights_source::pretrained;
use anyhow::Result;
use candle_core::Device;
use resnext_model::{Architecture, Head, Pretrained};
use resnext_train::Trainer;

/// Opens the weights that a recipe starts from, if they are not `opened` already, and makes their network the
/// recipe's, unless the command line names one.
pub fn open(
    recipe: &mut Recipe,
    model_is_given: bool,
    opened: Option<Pretrained>,
) -> Result<Option<Pretrained>> {
    let Some(source) = &recipe.weights else { return Ok(None) };
    let found = match opened {
        Some(found) => found,
        None => pretrained(source)?,
    };
    if !model_is_given {
        // A network without a name is trained by its configuration, which the recipe then has.
        (recipe.model, recipe.network) = match &found.network {
            Architecture::ResNext(config) => {
                (described(config), network_name(config).is_none().then(|| config.clone()))
            }
            Architecture::Baseline { baseline, .. } => (baseline.name().to_string(), None),
        };
    }
    Ok(Some(found))
}

/// Gives the network its initial weights. Returns what happens to the last layer, as a sentence.
pub fn load(
    trainer: &mut Trainer,
    found: &Pretrained,
    (model, class_names): (&Architecture, &[String]),
    device: &Device,
) -> Result<String> {
    let same = found.network.classes() == class_names.len()
        && found.labels.as_ref().is_none_or(|labels| labels == class_names);
    let head = if same { Head::Loaded } else { Head::Fresh };
    let path = found.weights.path();
    let weights = match (&found.network, model) {
        (Architecture::ResNext(config), Architecture::ResNext(model)) => {
            found.weights.in_form(config, model.form, device)?
        }
        (network, _) => found.weights.all(network, device)?,
    };
    trainer.start_from(&weights, head, path)?;
    Ok(match head {
        Head::Loaded => format!("{}, with their last layer", found.source),
        Head::Fresh => format!("{}, with a new last layer for {} classes", found.source, class_names.len()),
    })
}
