//! `cargo xtask convert`

use crate::recipe::Recipe;
use crate::run_folder::{BEST, file_in};
use anyhow::{Context, Result};
use candle_core::Device;
use resnext_model::Form;
use resnext_train::Checkpoint;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// A run's folder (its best checkpoint) or a checkpoint
    run_or_checkpoint: PathBuf,
    /// Form of the blocks to convert to: a, b or c (torchvision's names)
    #[arg(long, default_value_t)]
    form: Form,
    /// Write the weights alone: no optimizer state, nothing to resume, but what PyTorch loads as it is
    #[arg(long)]
    weights_only: bool,
    /// Checkpoint to write
    #[arg(long)]
    out: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    let file = file_in(&args.run_or_checkpoint, BEST);
    let checkpoint = Checkpoint::load(&file, &Device::Cpu)?;
    let from = checkpoint.model.form;
    let checkpoint = in_form(checkpoint, args.form, &file)?;
    match args.weights_only {
        true => checkpoint.save_weights(&args.out)?,
        false => checkpoint.save(&args.out)?,
    }
    println!("{} (form {from}) as form {}: {}", file.display(), args.form, args.out.display());
    Ok(())
}

/// A run with its blocks, and its recipe, in the given form.
pub fn in_form(checkpoint: Checkpoint, form: Form, file: &Path) -> Result<Checkpoint> {
    if checkpoint.model.form == form {
        return Ok(checkpoint);
    }
    let mut checkpoint = checkpoint.into_form(form).with_context(|| file.display().to_string())?;
    let recipe: Recipe = serde_json::from_value(checkpoint.recipe)
        .with_context(|| format!("the recipe in {}", file.display()))?;
    checkpoint.recipe = serde_json::to_value(Recipe { form, ..recipe })?;
    Ok(checkpoint)
}
