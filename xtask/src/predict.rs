//! `cargo xtask predict`

use crate::device::{self, DeviceName};
use crate::dtype::{self, Dtype};
use crate::photos::photos;
use crate::source::Source;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use resnext_data::heatmap::overlay;
use resnext_data::{Photo, PhotoLoader, Sample};
use resnext_model::{Fused, ResNext};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    /// Photos, folders of photos, or patterns such as 'photos/*.jpg'
    #[arg(required = true)]
    images: Vec<String>,
    /// Repository of the hub, such as timm/resnext101_32x8d.fb_swsl_ig1b_ft_in1k; weights file; or run folder
    #[arg(long, default_value = "timm/resnext50_32x4d.a1_in1k")]
    weights: String,
    /// Classes to show for each photo
    #[arg(long, default_value_t = 5)]
    topk: usize,
    /// Print a line of JSON for each photo
    #[arg(long)]
    json: bool,
    /// What to compute in
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    #[arg(long, help = dtype::RANGES_HELP)]
    ranges: Option<PathBuf>,
    /// Folder to write photos to, under a map of what spoke for their first class (Grad-CAM)
    #[arg(long)]
    heatmap: Option<PathBuf>,
    /// Threads that decode and classify photos; as many as there are cores if not given
    #[arg(long)]
    threads: Option<usize>,
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: DeviceName,
}

/// What spoke for a class, rows by columns.
type Map = Vec<Vec<f32>>;

/// What the network said of a photo.
struct Seen {
    path: PathBuf,
    logits: Vec<f32>,
    /// What a heat map is drawn of, where one is asked for.
    drawing: Option<(Photo, Map)>,
}

/// What tells logits from images.
enum Network {
    /// The fast form.
    Fused(Box<Fused>),
    /// The form that other devices compute, and that keeps its last map, for heat maps.
    Whole(Box<ResNext>),
}

impl Network {
    fn new(source: &Source, args: &Args, device: &Device) -> Result<Self> {
        let builder = source.pretrained.weights.builder(DType::F32, device);
        let config = &source.pretrained.config;
        let ranges = args.dtype.ranges(args.ranges.as_deref())?;
        Ok(match args.heatmap {
            None if device.is_cpu() => {
                Network::Fused(Box::new(args.dtype.network(config, builder, ranges.as_ref())?))
            }
            _ if args.dtype != Dtype::F32 => {
                bail!("--dtype {} is for the CPU and goes without --heatmap", args.dtype.name())
            }
            _ => Network::Whole(Box::new(ResNext::new(config, builder)?)),
        })
    }

    /// Logits of one image, and the map behind its first class, where one is asked for.
    fn run(&self, x: &Tensor, heatmap: bool) -> Result<(Vec<f32>, Option<Map>)> {
        Ok(match self {
            Network::Fused(network) => (network.forward(x)?.flatten_all()?.to_vec1()?, None),
            Network::Whole(network) if !heatmap => {
                (network.forward(x, false)?.flatten_all()?.to_vec1()?, None)
            }
            Network::Whole(network) => {
                let (logits, map) = network.grad_cam(x, None)?;
                (logits.flatten_all()?.to_vec1()?, Some(map.squeeze(0)?.to_vec2()?))
            }
        })
    }
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.topk > 0, "--topk must be at least 1");
    ensure!(args.threads != Some(0), "--threads must be at least 1");
    let device = args.device.open()?;
    let paths = photos(&args.images)?;
    let source = Source::open(&args.weights)?;
    if let Some(folder) = &args.heatmap {
        let failed = || format!("cannot make the folder {}", folder.display());
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    let count = paths.len();
    let workers = workers(&source, &args, &device, count)?;
    let start = Instant::now();
    let mut failed = 0;
    let mut out = std::io::stdout().lock();
    for seen in PhotoLoader::new(paths, source.transform, workers) {
        match seen? {
            Ok(Seen { path, logits, drawing }) => {
                show(&mut out, &path, &top(&logits, args.topk), &source, args.json)?;
                if let (Some(folder), Some((photo, map))) = (&args.heatmap, drawing) {
                    draw(folder, &path, &photo, &source, map)?;
                }
            }
            Err(error) if count == 1 => return Err(error.into()),
            Err(error) => {
                eprintln!("error: {error}");
                failed += 1;
            }
        }
    }
    if count > 1 {
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{count} photos in {seconds:.2} s, {:.1} a second", count as f64 / seconds);
    }
    match failed {
        0 => Ok(()),
        _ => bail!("{failed} of {count} photos could not be read"),
    }
}

/// What a worker makes of a photo: an error of the network's ends everything, one of the photo's only itself.
type Outcome = Result<std::result::Result<Seen, resnext_data::Error>>;

/// As many workers as there are threads and photos for, with a part of the threads each.
///
/// A photo a thread, from its file to its logits: were its network spread over all threads, each of them would
/// wait whenever one decodes.
fn workers(
    source: &Source,
    args: &Args,
    device: &Device,
    photos: usize,
) -> Result<Vec<impl FnMut(&Path, resnext_data::Result<Sample>) -> Outcome + use<>>> {
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let count = threads.min(photos).max(1);
    let network = Arc::new(Network::new(source, args, device)?);
    let (height, width) = source.transform.crop;
    let heatmap = args.heatmap.is_some();
    let worker = |i: usize| {
        let own = threads / count + usize::from(i < threads % count);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(own).build()?;
        let (network, device) = (Arc::clone(&network), device.clone());
        Ok(move |path: &Path, sample: resnext_data::Result<Sample>| {
            let Sample { photo, input } = match sample {
                Ok(sample) => sample,
                Err(error) => return Ok(Err(error)),
            };
            // The loader's memory is (N, H, W, C); the network sees (N, C, H, W) with those strides.
            let x = Tensor::from_vec(input, (1, height, width, 3), &device)?.permute((0, 3, 1, 2))?;
            let (logits, map) = pool.install(|| network.run(&x, heatmap))?;
            Ok(Ok(Seen { path: path.to_path_buf(), logits, drawing: map.map(|map| (photo, map)) }))
        })
    };
    (0..count).map(worker).collect()
}

/// The likeliest classes and their probabilities.
fn top(logits: &[f32], k: usize) -> Vec<(usize, f32)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|v| (v - largest).exp()).sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    order.into_iter().take(k).map(|class| (class, (logits[class] - largest).exp() / total)).collect()
}

/// Writes a photo's classes. Whoever reads them may have seen enough, which is an error, not a panic.
fn show(
    out: &mut impl Write,
    path: &Path,
    top: &[(usize, f32)],
    source: &Source,
    as_json: bool,
) -> std::io::Result<()> {
    if as_json {
        let classes: Vec<_> = top
            .iter()
            .map(|&(class, p)| json!({"class": class, "label": source.label(class), "probability": p}))
            .collect();
        return writeln!(out, "{}", json!({"image": path.display().to_string(), "top": classes}));
    }
    writeln!(out, "{}", path.display())?;
    for &(class, p) in top {
        writeln!(out, "  {:6.2} %  {} ({class})", 100.0 * p, source.label(class))?;
    }
    Ok(())
}

fn draw(folder: &Path, path: &Path, photo: &Photo, source: &Source, map: Map) -> Result<()> {
    let size = (map.len(), map.first().map_or(0, Vec::len));
    let drawn = overlay(photo, &source.transform.window(photo), &map.concat(), size);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    // Photos of several folders may have one name.
    let free = |i: usize| folder.join(if i == 1 { format!("{stem}.png") } else { format!("{stem}-{i}.png") });
    let target = (1..).map(free).find(|target| !target.exists()).context("no free name")?;
    Ok(drawn.save(&target)?)
}
