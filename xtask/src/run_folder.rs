//! The folder of a run: its recipe, metrics, curves and checkpoints.

use crate::curves;
use crate::history::{self, Epoch};
use crate::recipe::Recipe;
use anyhow::{Context, Result, bail};
use resnext_train::Checkpoint;
use resnext_train::checkpoint::replace_file;
use std::path::{Path, PathBuf};

/// The newest checkpoint, which a run resumes from.
pub const LAST: &str = "last.safetensors";
/// The checkpoint of the best test top-1.
pub const BEST: &str = "best.safetensors";
const METRICS: &str = "metrics.csv";

/// A run's folder, open for writing.
pub struct RunFolder {
    pub path: PathBuf,
    epochs: Vec<Epoch>,
}

impl RunFolder {
    /// Makes the folder of a new run: `wanted`, which must not hold a run yet, or else the first free name
    /// under `runs/`.
    pub fn create(wanted: Option<PathBuf>, recipe: &Recipe) -> Result<Self> {
        let numbered = |i: usize| PathBuf::from(format!("runs/{}-{}-{i}", recipe.dataset, recipe.model));
        let path = match wanted {
            Some(path) => path,
            None => (1..).map(numbered).find(|path| !path.exists()).context("no free run folder")?,
        };
        if path.join(LAST).exists() || path.join(METRICS).exists() {
            bail!(
                "{} already holds a run: resume it with --resume {0}, or choose another --out",
                path.display()
            );
        }
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        let folder = RunFolder { path, epochs: Vec::new() };
        replace_file(&folder.path.join("recipe.toml"), toml::to_string(recipe)?.as_bytes())?;
        Ok(folder)
    }

    /// Opens the folder of a run that continues after `epochs` complete epochs.
    pub fn resume(path: PathBuf, epochs: usize) -> Result<Self> {
        let mut history = history::read(&path.join(METRICS))?;
        history.retain(|epoch| epoch.epoch <= epochs);
        Ok(RunFolder { path, epochs: history })
    }

    /// Adds an epoch to the metrics and redraws the curves.
    pub fn add(&mut self, epoch: Epoch) -> Result<()> {
        self.epochs.push(epoch);
        replace_file(&self.path.join(METRICS), &history::to_csv(&self.epochs)?)?;
        replace_file(&self.path.join("curves.svg"), curves::draw(&self.epochs)?.as_bytes())?;
        Ok(())
    }

    /// Writes the last checkpoint, and also the best one if this is it.
    pub fn save(&self, checkpoint: &Checkpoint, best: bool) -> resnext_train::Result<()> {
        checkpoint.save(&self.path.join(LAST))?;
        if best {
            checkpoint.save(&self.path.join(BEST))?;
        }
        Ok(())
    }
}

/// The file that a path means: `file` inside it if it is a run folder, else the path itself.
pub fn file_in(path: &Path, file: &str) -> PathBuf {
    if path.is_dir() { path.join(file) } else { path.to_path_buf() }
}
