//! `cargo xtask export`: writes weights for other programs.

use crate::classifier::{Classifier, print_notes};
use crate::input_options::InputOptions;
use anyhow::{Context, Result, bail};
use candle_core::DType;
use clap::ValueEnum;
use resnext_model::export::{Export, OPSET};
use resnext_train::checkpoint::replace_file;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Run folder (its best checkpoint), weights file, or repository of the Hugging Face Hub
    weights: String,
    /// File to write: .safetensors, with torchvision's or timm's names, or .onnx
    #[arg(long)]
    out: PathBuf,
    /// Type of the written weights
    #[arg(long, default_value = "f32")]
    dtype: WeightType,
    #[command(flatten)]
    input: InputOptions,
}

/// The type of the written weights.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum WeightType {
    F32,
    F16,
    Bf16,
}

pub fn run(args: Args) -> Result<()> {
    let dtype = match args.dtype {
        WeightType::F32 => DType::F32,
        WeightType::F16 => DType::F16,
        WeightType::Bf16 => DType::BF16,
    };
    let ending = args.out.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let as_onnx = match ending.as_deref() {
        Some("safetensors") => false,
        Some("onnx") => true,
        _ => bail!("{}: expected a name that ends in .safetensors or .onnx", args.out.display()),
    };
    let classifier = Classifier::open(&args.weights, &args.input)?;
    let mut export = Export::of(&classifier.pretrained.weights, &classifier.pretrained.network)?;
    if let Some(description) = classifier.description() {
        export.describe(description);
    }
    let name = args.out.file_stem().context("no file name")?.to_string_lossy();
    let bytes = if as_onnx { export.onnx(&name, dtype)? } else { export.safetensors(dtype)? };
    replace_file(&args.out, &bytes)?;
    print_notes(&classifier.pretrained);
    let kind = if as_onnx { format!("ONNX, opset {OPSET}") } else { "safetensors".into() };
    let mebibytes = bytes.len() as f64 / (1 << 20) as f64;
    println!("{}: {kind}, {}, {mebibytes:.1} MiB", args.out.display(), dtype.as_str());
    Ok(())
}
