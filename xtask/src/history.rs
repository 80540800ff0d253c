//! The figures of a run after each epoch: the rows of `metrics.csv`.

use anyhow::{Context, Result};
use resnext_train::EpochReport;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One epoch. Top-1 and top-5 are shares from 0 to 1; seconds count from the start of the run, or of its
/// resumption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    pub epoch: usize,
    pub lr: f64,
    pub train_loss: f64,
    pub train_top1: f64,
    pub test_loss: f64,
    pub test_top1: f64,
    pub test_top5: f64,
    pub seconds: f64,
}

impl Epoch {
    pub fn new(report: &EpochReport, seconds: f64) -> Self {
        let EpochReport { epoch, train, test, lr, .. } = report;
        Epoch {
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

/// The epochs in a CSV file; none if there is no such file.
pub fn read(path: &Path) -> Result<Vec<Epoch>> {
    let Ok(mut reader) = csv::Reader::from_path(path) else { return Ok(Vec::new()) };
    reader.deserialize().map(|epoch| epoch.with_context(|| path.display().to_string())).collect()
}

/// The epochs as CSV.
pub fn to_csv(epochs: &[Epoch]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for epoch in epochs {
        writer.serialize(epoch)?;
    }
    Ok(writer.into_inner()?)
}

/// The epochs as JSON, one line for each.
pub fn to_json_lines(epochs: &[Epoch]) -> Result<String> {
    let mut lines = String::new();
    for epoch in epochs {
        lines += &serde_json::to_string(epoch)?;
        lines.push('\n');
    }
    Ok(lines)
}
