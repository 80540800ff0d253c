//! `cargo xtask summary`: the layers of a network and what they cost.

use crate::text_table::Table;
use anyhow::{Result, ensure};
use resnext_model::{Architecture, Summary};

#[derive(clap::Args)]
pub struct Args {
    /// Network, such as resnext50_32x4d or inception_v4
    name: String,
    /// Height and width of the images [default: 224, 299 for Inceptions, or 32 for CIFAR networks]
    #[arg(long)]
    size: Option<usize>,
    /// Number of classes [default: 1000, or 10 for CIFAR networks]
    #[arg(long)]
    classes: Option<usize>,
}

pub fn run(args: Args) -> Result<()> {
    let network = Architecture::by_name(&args.name)?;
    let size = args.size.unwrap_or(network.size());
    ensure!((1..=1 << 14).contains(&size), "--size must be from 1 to 16384, got {size}");
    let classes = args.classes.unwrap_or(network.classes());
    ensure!((1..=1 << 20).contains(&classes), "--classes must be from 1 to {}, got {classes}", 1 << 20);
    let summary = network.with_classes(classes).summary(size, size)?;
    print!("{}", layer_table(&summary).to_text());
    let multiply_adds = match summary.multiply_adds() as f64 {
        small if small < 1e9 => format!("{:.1} M", small / 1e6),
        large => format!("{:.2} G", large / 1e9),
    };
    let mebibytes = summary.activation_bytes() as f64 / (1 << 20) as f64;
    println!("parameters     {}", summary.parameters());
    println!("multiply-adds  {multiply_adds} per image of {size}×{size}");
    println!("activations    {mebibytes:.1} MiB per image in f32, counting the outputs of convolutions");
    Ok(())
}

fn layer_table(summary: &Summary) -> Table {
    let mut table = Table::new(&["layer", "kind", "output", "parameters", "multiply-adds"]);
    for layer in &summary.layers {
        let (c, h, w) = layer.output;
        table.row(vec![
            layer.name.clone(),
            layer.kind.clone(),
            format!("{c}×{h}×{w}"),
            layer.parameters.to_string(),
            layer.multiply_adds.to_string(),
        ]);
    }
    table
}
