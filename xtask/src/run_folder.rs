//! The folder of a run: its recipe, metrics, curves and checkpoints.

use crate::curves;
use crate::recipe::Recipe;
use anyhow::{Context, Result, bail};
use resnext_train::checkpoint::replace_file;
use resnext_train::{Checkpoint, EpochReport};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The newest checkpoint, which a run resumes from.
pub const LAST: &str = "last.safetensors";
/// The checkpoint of the best test top-1.
pub const BEST: &str = "best.safetensors";
const METRICS: &str = "metrics.csv";

/// A row of `metrics.csv`. Shares are from 0 to 1, seconds since the run, or its resumption, began.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub epoch: usize,
    pub lr: f64,
    pub train_loss: f64,
    pub train_top1: f64,
    pub test_loss: f64,
    pub test_top1: f64,
    pub test_top5: f64,
    pub seconds: f64,
}

impl Row {
    pub fn new(report: &EpochReport, seconds: f64) -> Self {
        let EpochReport { epoch, train, test, lr } = report;
        Row {
            epoch: epoch + 1,
            lr: *lr,
            train_loss: train.loss(),
            train_top1: train.top1(),
            test_loss: test.loss(),
            test_top1: test.top1(),
            test_top5: test.top5(),
            seconds,
        }
    }
}

/// A run's folder, open for writing.
pub struct RunFolder {
    pub path: PathBuf,
    pub rows: Vec<Row>,
}

impl RunFolder {
    /// A folder for a new run: `wanted`, which may not hold a run yet, or the first free name under
    /// `runs/`.
    pub fn create(wanted: Option<PathBuf>, recipe: &Recipe) -> Result<Self> {
        let dataset = format!("{:?}", recipe.dataset).to_lowercase();
        let numbered = |i: usize| PathBuf::from(format!("runs/{dataset}-{}-{i}", recipe.model));
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
        let folder = RunFolder { path, rows: Vec::new() };
        replace_file(&folder.path.join("recipe.toml"), toml::to_string(recipe)?.as_bytes())?;
        Ok(folder)
    }

    /// The folder of a run that goes on after `epochs` whole epochs.
    pub fn resume(path: PathBuf, epochs: usize) -> Result<Self> {
        let mut rows = Vec::new();
        if let Ok(mut reader) = csv::Reader::from_path(path.join(METRICS)) {
            for row in reader.deserialize() {
                let row: Row = row.with_context(|| format!("{} in {}", METRICS, path.display()))?;
                rows.push(row);
            }
        }
        rows.retain(|row| row.epoch <= epochs);
        Ok(RunFolder { path, rows })
    }

    /// Adds an epoch to the metrics and draws the curves anew.
    pub fn add(&mut self, row: Row) -> Result<()> {
        self.rows.push(row);
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in &self.rows {
            writer.serialize(row)?;
        }
        replace_file(&self.path.join(METRICS), &writer.into_inner()?)?;
        replace_file(&self.path.join("curves.svg"), curves::draw(&self.rows)?.as_bytes())?;
        Ok(())
    }

    /// Writes the last, and if it is that the best, checkpoint.
    pub fn save(&self, checkpoint: &Checkpoint, best: bool) -> resnext_train::Result<()> {
        checkpoint.save(&self.path.join(LAST))?;
        if best {
            checkpoint.save(&self.path.join(BEST))?;
        }
        Ok(())
    }
}

/// The file meant by a path that may be a run folder: `file` inside it, or the path itself.
pub fn file_in(path: &Path, file: &str) -> PathBuf {
    if path.is_dir() { path.join(file) } else { path.to_path_buf() }
}
