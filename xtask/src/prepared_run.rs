//! A run that is ready for its first step: everything that follows from its recipe and its data.

use crate::classifier::describe;
use crate::loaders::Loaders;
use crate::open_data::OpenData;
use crate::recipe::Recipe;
use anyhow::Result;
use candle_core::Device;
use resnext_data::Normalization;
use resnext_model::{Architecture, Description, Summary};
use resnext_train::Trainer;

/// A trainer with new weights, and the data that it is to be trained on.
pub struct PreparedRun {
    pub model: Architecture,
    pub summary: Summary,
    pub normalization: Normalization,
    pub loaders: Loaders,
    pub trainer: Trainer,
}

impl PreparedRun {
    pub fn new(recipe: &Recipe, data: OpenData, device: &Device) -> Result<Self> {
        let model = recipe.architecture(data.class_names().len())?;
        let (height, width) = data.size();
        let summary = model.summary(height, width)?;
        let description = describe(&data, &model);
        let normalization = data.normalization();
        let variation = (recipe.augment, recipe.mix.map(Into::into));
        let loaders = Loaders::mixed(data, recipe.batch_size, variation, recipe.seed, device)?;
        let config = recipe.training(&loaders.class_counts())?;
        let mut trainer = Trainer::new(&model, config, serde_json::to_value(recipe)?, device)?;
        trainer.set_metadata([(Description::KEY.to_string(), description.to_json())].into());
        Ok(PreparedRun { model, summary, normalization, loaders, trainer })
    }
}
