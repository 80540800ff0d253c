//! Checkpoints of runs, which hold the run's recipe.

use crate::recipe::Recipe;
use anyhow::{Context, Result};
use resnext_model::{Form, Weights};
use resnext_train::Checkpoint;
use resnext_train::checkpoint::recipe_of;
use std::path::Path;

/// Rearranges a checkpoint, and its recipe, to the given form of the blocks. `file` is named in errors.
pub fn in_form(checkpoint: Checkpoint, form: Form, file: &Path) -> Result<Checkpoint> {
    if form_of(&checkpoint) == form {
        return Ok(checkpoint);
    }
    let mut checkpoint = checkpoint.into_form(form).with_context(|| file.display().to_string())?;
    let recipe = Recipe { form, ..parsed(checkpoint.recipe, file)? };
    checkpoint.recipe = serde_json::to_value(recipe)?;
    Ok(checkpoint)
}

/// The form of a checkpoint's blocks; (c), which is no choice, of a network that has none of the paper's.
pub fn form_of(checkpoint: &Checkpoint) -> Form {
    checkpoint.model.config().map_or(Form::C, |config| config.form)
}

/// The recipe of the run that wrote these weights, if they are a checkpoint's.
pub fn recipe(weights: &Weights) -> Result<Option<Recipe>> {
    recipe_of(weights).map(|recipe| parsed(recipe, weights.path())).transpose()
}

/// The recipe that a checkpoint holds as JSON.
pub fn parsed(recipe: serde_json::Value, file: &Path) -> Result<Recipe> {
    serde_json::from_value(recipe).with_context(|| format!("the recipe in {}", file.display()))
}
