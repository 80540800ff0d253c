//! `cargo xtask compare`: the networks of the paper's comparison side by side, measured here and as published.

mod measured;
mod noise;
mod picture;
mod published;
mod report;
mod row;

use crate::dtype_arg::Dtype;
use crate::machine;
use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use measured::Validation;
use resnext_train::checkpoint::replace_file;
use row::{Network, Row};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// Networks to compare [default: the nine that docs/commands.md lists]
    names: Vec<String>,
    /// File for the table as Markdown
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// SVG file for a picture of top-1 error against multiply-adds
    #[arg(long)]
    picture: Option<PathBuf>,
    /// Folder of trained weights, such as resnet101.safetensors or a folder inception_v4, each named after its network:
    /// their errors are measured
    #[arg(long, requires = "data")]
    weights: Option<PathBuf>,
    /// ImageNet's validation photos: a folder with a folder per class
    #[arg(long, requires = "weights")]
    data: Option<PathBuf>,
    /// Timed forward passes per network and type; 0 leaves times out
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Number of threads [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
}

pub fn run(args: Args) -> Result<()> {
    let threads = machine::threads_or(args.threads);
    ensure!(threads > 0, "--threads must be at least 1");
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let names = match args.names.is_empty() {
        true => published::PUBLISHED.iter().map(|published| published.name.to_string()).collect(),
        false => args.names.clone(),
    };
    // All names are checked before the first network is measured.
    let networks = names.iter().map(|name| Network::named(name)).collect::<Result<Vec<_>>>()?;
    let mut rows = networks.iter().map(Row::new).collect::<Result<Vec<_>>>()?;
    let validation = match (&args.weights, &args.data) {
        (Some(weights), Some(data)) => Some(Validation::open(weights, data, &names)?),
        _ => None,
    };
    if args.picture.is_some() && validation.is_none() {
        // Networks without published errors are refused before they are measured.
        picture::draw(&rows)?;
    }
    if let Some(validation) = &validation {
        for (name, row) in names.iter().zip(&mut rows) {
            row.measured = validation.measure(name)?;
        }
    }
    if args.runs > 0 {
        time(&networks, &mut rows, args.runs)?;
    }
    let measured = validation.as_ref().map(Validation::note);
    print!("{}", report::text(&rows, measured.as_deref()));
    if let Some(path) = &args.picture {
        write(path, &picture::draw(&rows)?)?;
    }
    if let Some(path) = &args.markdown {
        let picture = args.picture.as_deref().map(|picture| link(path, picture));
        write(path, &report::markdown(&rows, measured.as_deref(), picture.as_deref()))?;
    }
    Ok(())
}

/// The types that are timed. A CPU without instructions for bf16 computes it in f32, as the report then says.
const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

/// Times every network in f32 and bf16.
fn time(networks: &[Network], rows: &mut [Row], runs: usize) -> Result<()> {
    let bar = ProgressBar::new((networks.len() * DTYPES.len()) as u64);
    for (network, row) in networks.iter().zip(rows) {
        for dtype in DTYPES {
            row.times.push((dtype, network.time(dtype, runs)?));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// The address of `file` as a link in the file `from`: its name if both are in one folder.
fn link(from: &Path, file: &Path) -> String {
    match (from.parent() == file.parent(), file.file_name()) {
        (true, Some(name)) => name.to_string_lossy().into_owned(),
        _ => file.display().to_string(),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    replace_file(path, text.as_bytes())?;
    println!("wrote {}", path.display());
    Ok(())
}
