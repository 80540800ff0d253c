//! The report at the end of a run.

use crate::loaders::Loaders;
use crate::recipe::Recipe;
use crate::report::Report;
use crate::report::examination::examine;
use crate::run_folder::{BEST, REPORT, RunFolder};
use anyhow::Result;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use resnext_data::Normalization;
use resnext_model::AnyNetwork;
use resnext_train::Checkpoint;

/// Mistakes that the report shows.
const MISTAKES: usize = 12;

/// Examines the run's best checkpoint on the test images and writes `report.html`.
pub fn write(
    folder: &RunFolder,
    recipe: &Recipe,
    loaders: &Loaders,
    normalization: &Normalization,
    device: &Device,
    facts: &[(&str, String)],
) -> Result<()> {
    let checkpoint = Checkpoint::load(&folder.path.join(BEST), device)?;
    let weights = checkpoint.weights().clone().into_iter().collect();
    let network = AnyNetwork::new(&checkpoint.model, VarBuilder::from_tensors(weights, DType::F32, device))?;
    let class_names = loaders.class_names();
    let examination = examine(&network, loaders, class_names.len(), normalization, MISTAKES)?;
    let report = Report {
        title: &folder.path.display().to_string(),
        epochs: folder.epochs(),
        class_names,
        examination: &examination,
        recipe: &toml::to_string(recipe)?,
        facts,
        left_out: &loaders.unreadable(),
    };
    folder.write(REPORT, report.to_html()?.as_bytes())
}
