//! `cargo xtask summary`

use anyhow::{Result, ensure};
use resnext_model::{Config, Stem, Summary};

#[derive(clap::Args)]
pub struct Args {
    /// Network, such as resnext50_32x4d
    name: String,
    /// Height and width of the images; 224 or, for CIFAR networks, 32 if not given
    #[arg(long)]
    size: Option<usize>,
    /// Logits; 1000 or, for CIFAR networks, 10 if not given
    #[arg(long)]
    classes: Option<usize>,
}

pub fn run(args: Args) -> Result<()> {
    let mut config = Config::by_name(&args.name)?;
    config.classes = args.classes.unwrap_or(config.classes);
    let size = args.size.unwrap_or(if config.stem == Stem::ImageNet { 224 } else { 32 });
    ensure!((1..=1 << 14).contains(&size), "--size must be from 1 to 16384, got {size}");
    let summary = Summary::new(&config, size, size)?;
    println!("{:<22} {:<18} {:>16} {:>12} {:>16}", "layer", "kind", "output", "parameters", "multiply-adds");
    for layer in &summary.layers {
        let (c, h, w) = layer.output;
        let output = format!("{c}×{h}×{w}");
        println!(
            "{:<22} {:<18} {output:>16} {:>12} {:>16}",
            layer.name, layer.kind, layer.parameters, layer.multiply_adds
        );
    }
    println!("parameters     {}", summary.parameters());
    println!("multiply-adds  {:.2} G an image of {size}×{size}", summary.multiply_adds() as f64 / 1e9);
    println!(
        "activations    {:.1} MiB an image in f32, outputs of convolutions",
        summary.activation_bytes() as f64 / (1 << 20) as f64
    );
    Ok(())
}
