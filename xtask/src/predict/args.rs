//! The options of `cargo xtask predict`.

use crate::device_arg::{self, DeviceName};
use crate::dtype_arg::{self, Dtype};
use crate::input_options::InputOptions;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Photos, folders of photos, or patterns such as 'photos/*.jpg'
    #[arg(required = true)]
    pub images: Vec<String>,
    /// Repository of the Hugging Face Hub, such as timm/resnext101_32x8d.fb_swsl_ig1b_ft_in1k, weights file,
    /// or run folder
    #[arg(long, default_value = "timm/resnext50_32x4d.a1_in1k")]
    pub weights: String,
    /// Number of classes to show per photo
    #[arg(long, default_value_t = 5)]
    pub topk: usize,
    /// Print one line of JSON per photo
    #[arg(long)]
    pub json: bool,
    /// Type to compute in
    #[arg(long, default_value = "f32")]
    pub dtype: Dtype,
    #[arg(long, help = dtype_arg::RANGES_HELP)]
    pub ranges: Option<PathBuf>,
    /// Folder for copies of the photos, each with a heat map of what led to its most likely class (Grad-CAM)
    #[arg(long)]
    pub heatmap: Option<PathBuf>,
    /// Number of threads that decode and classify photos [default: one per core]
    #[arg(long)]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub input: InputOptions,
    #[arg(long, default_value = "auto", help = device_arg::HELP)]
    pub device: DeviceName,
}
