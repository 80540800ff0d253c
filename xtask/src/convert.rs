//! `cargo xtask convert`: rewrites a checkpoint with its blocks in another form.

use crate::checkpoint::in_form;
use crate::run_folder::{BEST, file_in};
use anyhow::Result;
use candle_core::Device;
use resnext_model::Form;
use resnext_train::Checkpoint;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Run folder (its best checkpoint), or checkpoint file
    run_or_checkpoint: PathBuf,
    /// Form to convert the blocks to, a, b or c; form c has torchvision's names
    #[arg(long, default_value_t)]
    form: Form,
    /// Write the weights without the optimizer state, for PyTorch; a run cannot resume from such a file
    #[arg(long)]
    weights_only: bool,
    /// File to write
    #[arg(long)]
    out: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    let file = file_in(&args.run_or_checkpoint, BEST);
    let checkpoint = in_form(Checkpoint::load(&file, &Device::Cpu)?, args.form, &file)?;
    match args.weights_only {
        true => checkpoint.save_weights(&args.out)?,
        false => checkpoint.save(&args.out)?,
    }
    println!("{}: the weights of {} in form ({})", args.out.display(), file.display(), args.form);
    Ok(())
}
