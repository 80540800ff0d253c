//! The folder of a run: its recipe, metrics, curves and checkpoints.

use crate::curves;
use crate::history::{self, Epoch};
use crate::recipe::Recipe;
use crate::run_lock::RunLock;
use anyhow::{Context, Result, bail};
use resnext_train::Checkpoint;
use resnext_train::checkpoint::replace_file;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The newest checkpoint, which a run resumes from.
pub const LAST: &str = "last.safetensors";
/// The checkpoint of the best test top-1.
pub const BEST: &str = "best.safetensors";
/// Loss, top-1 and the rest, a row per epoch.
pub const METRICS: &str = "metrics.csv";
/// The settings that hold now.
pub const RECIPE: &str = "recipe.toml";
/// The report of a run that has ended.
pub const REPORT: &str = "report.html";

/// A run's folder, open for writing by this process alone.
pub struct RunFolder {
    pub path: PathBuf,
    epochs: Vec<Epoch>,
    _lock: RunLock,
}

impl RunFolder {
    /// Makes the folder of a new run: `wanted`, which must not hold a run yet, or else the first free name
    /// under `runs/`.
    pub fn create(wanted: Option<PathBuf>, recipe: &Recipe) -> Result<Self> {
        let path = match wanted {
            Some(path) => path,
            None => free(&format!("runs/{}-{}", recipe.dataset, plain(&recipe.model)))?,
        };
        if path.join(LAST).exists() || path.join(METRICS).exists() {
            bail!(
                "{} already holds a run: resume it with --resume {0}, or choose another --out",
                path.display()
            );
        }
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        let lock = RunLock::take(&path)?;
        let folder = RunFolder { path, epochs: Vec::new(), _lock: lock };
        folder.write_recipe(recipe)?;
        Ok(folder)
    }

    /// Opens the folder of a run that continues after `epochs` complete epochs, locked by `lock`.
    pub fn resume(path: PathBuf, lock: RunLock, epochs: usize) -> Result<Self> {
        let mut history = history::read(&path.join(METRICS))?;
        history.retain(|epoch| epoch.epoch <= epochs);
        // Files that a process was writing when it was killed, and the report of fewer epochs.
        let unfinished =
            [LAST, BEST, METRICS, RECIPE, REPORT].map(|file| path.join(file).with_extension("tmp"));
        for old in unfinished.iter().chain([&path.join(REPORT)]) {
            match std::fs::remove_file(old) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", old.display()));
                }
                _ => {}
            }
        }
        Ok(RunFolder { path, epochs: history, _lock: lock })
    }

    /// Writes the settings that hold from now on.
    pub fn write_recipe(&self, recipe: &Recipe) -> Result<()> {
        Ok(replace_file(&self.path.join(RECIPE), toml::to_string(recipe)?.as_bytes())?)
    }

    /// Adds an epoch to the metrics, as CSV and as JSON lines, and redraws the curves.
    pub fn add(&mut self, epoch: Epoch) -> Result<()> {
        self.epochs.push(epoch);
        replace_file(&self.path.join(METRICS), &history::to_csv(&self.epochs)?)?;
        self.write("metrics.jsonl", history::to_json_lines(&self.epochs)?.as_bytes())?;
        replace_file(&self.path.join("curves.svg"), curves::draw(&self.epochs)?.as_bytes())?;
        Ok(())
    }

    /// The epochs so far.
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }

    /// Writes another file of the run.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(replace_file(&self.path.join(name), bytes)?)
    }

    /// Writes the best checkpoint if this is it, then the last one. A run that is killed between the two
    /// resumes from the old last one and comes to the same best one again.
    pub fn save(&self, checkpoint: &Checkpoint, best: bool) -> resnext_train::Result<()> {
        if best {
            checkpoint.save(&self.path.join(BEST))?;
        }
        checkpoint.save(&self.path.join(LAST))
    }
}

/// A network's name as a part of a file's: `resnext20, 8×(4, 7, 16)d` becomes `resnext20-8-4-7-16-d`.
fn plain(name: &str) -> String {
    let parts = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

/// Makes the first folder `stem-1`, `stem-2`, … that does not exist yet, also if another process looks for
/// one at the same time.
pub fn free(stem: &str) -> Result<PathBuf> {
    let cannot = |path: &Path| format!("cannot make the folder {}", path.display());
    for number in 1usize.. {
        let path = PathBuf::from(format!("{stem}-{number}"));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| cannot(parent))?;
        }
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| cannot(&path)),
        }
    }
    bail!("no free run folder")
}

/// The file that a path means: `file` inside it if it is a run folder, else the path itself.
pub fn file_in(path: &Path, file: &str) -> PathBuf {
    if path.is_dir() { path.join(file) } else { path.to_path_buf() }
}
