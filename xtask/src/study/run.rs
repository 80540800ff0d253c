//! One run of a study, by the machinery of `cargo xtask train`.

use super::plan::PlannedRun;
use super::progress::{RunObserver, StudyProgress};
use super::results::FAILURE;
use crate::open_data::OpenData;
use crate::prepared_run::PreparedRun;
use crate::run_folder::{LAST, RECIPE, RunFolder};
use crate::run_lock::RunLock;
use crate::run_record::RunRecord;
use crate::train::{facts, final_report};
use anyhow::Result;
use candle_core::Device;
use resnext_train::{Checkpoint, Data, Error, Outcome};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The time between two checkpoints within an epoch.
const SAVE_EVERY: Duration = Duration::from_secs(300);

/// How a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Finished,
    /// It has no result; its folder says why.
    Failed,
    /// Ctrl-C has stopped it, and it is saved.
    Stopped,
}

/// Trains a run from where it is to its end, called `name`. A loss that is no number ends the run, not the study.
pub fn train(
    run: &PlannedRun,
    name: String,
    study: &mut StudyProgress,
    stop: Arc<AtomicBool>,
    device: &Device,
) -> Result<Ended> {
    let PlannedRun { recipe, folder: path, .. } = run;
    let data = OpenData::new(recipe, None)?;
    let PreparedRun { summary, normalization, loaders, mut trainer, .. } =
        PreparedRun::new(recipe, data, device)?;
    let folder = if path.join(RECIPE).exists() {
        let lock = RunLock::take(path)?;
        let last = path.join(LAST);
        // Without a checkpoint, the run was killed before its first one, and starts again.
        if last.exists() {
            trainer.restore(&Checkpoint::load(&last, device)?, &last)?;
        }
        RunFolder::resume(path.clone(), lock, trainer.progress().epoch)?
    } else {
        RunFolder::create(Some(path.clone()), recipe)?
    };
    folder.write_recipe(recipe)?;
    let record = RunRecord::new(folder, trainer.progress().epoch, SAVE_EVERY)?;
    let (epochs, images_per_epoch) = (recipe.epochs, loaders.images_per_epoch());
    let mut observer = RunObserver { study, record, name, epochs, images_per_epoch, stop };
    let outcome = trainer.run(&loaders, &mut observer);
    let folder = observer.record.folder();
    match outcome {
        Ok(Outcome::Stopped) => Ok(Ended::Stopped),
        Ok(Outcome::Finished | Outcome::EarlyStopped) => {
            let facts = facts(recipe, &summary, &loaders, device);
            final_report::write(folder, recipe, &loaders, &normalization, device, &facts)?;
            Ok(Ended::Finished)
        }
        Err(error @ Error::Diverged { .. }) => {
            folder.write(FAILURE, format!("{error}\n").as_bytes())?;
            Ok(Ended::Failed)
        }
        Err(error) => Err(error.into()),
    }
}
