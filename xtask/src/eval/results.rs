//! `--results`: a file with a row per evaluation, for tables of many of them.

use anyhow::{Context, Result, bail, ensure};
use resnext_train::checkpoint::replace_file;
use serde::Serialize;
use std::path::Path;

/// The results of an evaluation, and its conditions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub model: String,
    pub weights: String,
    pub dataset: String,
    pub images: usize,
    /// Height and width of the network's input, such as `224x224`.
    pub size: String,
    pub crop_pct: f64,
    pub interpolation: String,
    pub views: &'static str,
    pub dtype: &'static str,
    /// In percent, as are all shares below.
    pub top1: f64,
    pub top5: f64,
    /// By ReaL labels, if there are any.
    pub real_top1: Option<f64>,
    pub loss: f64,
    pub calibration_error: f64,
    /// Means over the classes that have images.
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    /// Millions of parameters.
    pub parameters: f64,
    pub seconds: f64,
}

/// Checks that `path` names a format, before minutes of evaluation.
pub fn check(path: &Path) -> Result<()> {
    format(path).map(|_| ())
}

/// Adds a row to a file, which is created if it does not exist: CSV with a heading, or JSON lines.
pub fn add(path: &Path, row: &Row) -> Result<()> {
    let mut text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    match format(path)? {
        Format::JsonLines => text += &(serde_json::to_string(row)? + "\n"),
        Format::Csv => {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.serialize(row)?;
            let own = String::from_utf8(writer.into_inner()?)?;
            let (heading, line) = own.split_once('\n').context("a row without a heading")?;
            let found = text.lines().next();
            ensure!(
                found.is_none_or(|found| found == heading),
                "{} has other columns than an evaluation: expected {heading}",
                path.display()
            );
            if text.is_empty() {
                text = format!("{heading}\n");
            }
            text += line;
        }
    }
    Ok(replace_file(path, text.as_bytes())?)
}

enum Format {
    Csv,
    JsonLines,
}

fn format(path: &Path) -> Result<Format> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("csv") => Ok(Format::Csv),
        Some("jsonl" | "json") => Ok(Format::JsonLines),
        _ => bail!("{}: expected a name that ends in .csv, or in .jsonl for JSON lines", path.display()),
    }
}
