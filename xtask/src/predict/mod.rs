//! `cargo xtask predict`: classifies photos, and draws what led to their classes.

mod args;
mod network;

use crate::classifier::{Classifier, print_notes};
use crate::error_line::plain;
use crate::machine;
use crate::photo_paths::{Fault, photos};
use crate::plural::counted;
use anyhow::{Context, Result, bail, ensure};
pub use args::Args;
use candle_core::{Device, Tensor};
use network::{Map, Network};
use resnext_data::heatmap::overlay;
use resnext_data::{Photo, PhotoLoader, Sample};
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A photo that was classified.
struct Classified {
    logits: Vec<f32>,
    /// The damage of the photo's file, if it could be used all the same.
    note: Option<String>,
    /// The photo and its heat map, if one is wanted.
    drawing: Option<(Photo, Map)>,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.topk > 0, "--topk must be at least 1");
    ensure!(args.threads != Some(0), "--threads must be at least 1");
    let device = args.device.open()?;
    let named = photos(&args.images)?;
    let classifier = Classifier::open(&args.weights, &args.input)?;
    if let Some(folder) = &args.heatmap {
        let failed = || format!("cannot make the folder {}", folder.display());
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    let (count, faults) = (named.paths.len(), named.faults.len());
    let workers = workers(&classifier, &args, &device, count)?;
    named.print_left_out();
    let start = Instant::now();
    let (mut failed, mut noted) = (faults, false);
    let mut out = std::io::stdout().lock();
    for Fault { name, reason } in &named.faults {
        show_error(&mut out, name, reason, args.json)?;
        eprintln!("error: {}", plain(&format!("{name}: {reason}")));
    }
    let loader = PhotoLoader::new(named.paths.clone(), classifier.transform, workers);
    for (path, outcome) in named.paths.iter().zip(loader) {
        // A worker that panicked is that photo's error.
        let outcome = match outcome {
            Ok(outcome) => outcome?,
            Err(panicked) => Err(panicked),
        };
        match outcome {
            Ok(Classified { logits, note, drawing }) => {
                // An error that leaves no result needs no notes about results.
                if !std::mem::replace(&mut noted, true) {
                    print_notes(&classifier.pretrained);
                }
                if let Some(note) = note {
                    eprintln!("warning: {}", plain(&format!("{}: {note}", path.display())));
                }
                show(&mut out, path, &most_likely(&logits, args.topk), &classifier, args.json)?;
                if let (Some(folder), Some((photo, map))) = (&args.heatmap, drawing) {
                    draw(folder, path, &photo, &classifier, map)?;
                }
            }
            Err(error) => {
                let (name, line) = (path.display().to_string(), error.to_string());
                let reason = line.strip_prefix(&format!("{name}: ")).unwrap_or(&line);
                show_error(&mut out, &name, reason, args.json)?;
                if count + faults == 1 {
                    return Err(error.into());
                }
                eprintln!("error: {}", plain(&line));
                failed += 1;
            }
        }
    }
    if count > 1 {
        let seconds = start.elapsed().as_secs_f64();
        let speed = count as f64 / seconds;
        eprintln!("{} in {seconds:.2} s, {speed:.1} photos/s", counted(count, "photo"));
    }
    match failed {
        0 => Ok(()),
        _ => bail!("{failed} of {} could not be classified", counted(count + faults, "photo")),
    }
}

/// A worker's result for one photo. An outer error, which is the network's, ends the program; an inner one,
/// which is the photo's, leaves out only this photo.
type Outcome = Result<std::result::Result<Classified, resnext_data::Error>>;

/// The workers, which share the threads evenly: one per thread, or one per photo if there are fewer photos.
///
/// Each worker takes a photo from its file to its logits. If instead all threads shared each network, all of
/// them would wait whenever one decodes.
fn workers(
    classifier: &Classifier,
    args: &Args,
    device: &Device,
    photos: usize,
) -> Result<Vec<impl FnMut(&Path, resnext_data::Result<Sample>) -> Outcome + use<>>> {
    let threads = machine::threads_or(args.threads);
    let count = threads.min(photos).max(1);
    let network = Arc::new(Network::new(classifier, args, device)?);
    let (height, width) = classifier.transform.crop;
    let heatmap = args.heatmap.is_some();
    let worker = |i: usize| {
        let own_threads = threads / count + usize::from(i < threads % count);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(own_threads).build()?;
        let (network, device) = (Arc::clone(&network), device.clone());
        Ok(move |_: &Path, sample: resnext_data::Result<Sample>| {
            let Sample { photo, input } = match sample {
                Ok(sample) => sample,
                Err(error) => return Ok(Err(error)),
            };
            // The loader's memory is (N, H, W, C); the network sees (N, C, H, W) with those strides.
            let x = Tensor::from_vec(input, (1, height, width, 3), &device)?.permute((0, 3, 1, 2))?;
            let (logits, map) = pool.install(|| network.classify(&x, heatmap))?;
            let note = photo.note().map(String::from);
            Ok(Ok(Classified { logits, note, drawing: map.map(|map| (photo, map)) }))
        })
    };
    (0..count).map(worker).collect()
}

/// The `k` most likely classes with their probabilities, by softmax.
fn most_likely(logits: &[f32], k: usize) -> Vec<(usize, f32)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|v| (v - largest).exp()).sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    order.into_iter().take(k).map(|class| (class, (logits[class] - largest).exp() / total)).collect()
}

/// Writes a photo's classes. A closed pipe is an error rather than a panic: `head` may have read enough.
fn show(
    out: &mut impl Write,
    path: &Path,
    classes: &[(usize, f32)],
    classifier: &Classifier,
    as_json: bool,
) -> std::io::Result<()> {
    if as_json {
        let classes: Vec<_> = classes
            .iter()
            .map(|&(class, p)| json!({"class": class, "label": classifier.label(class), "probability": p}))
            .collect();
        return writeln!(out, "{}", json!({"image": path.display().to_string(), "top": classes}));
    }
    writeln!(out, "{}", plain(&path.display().to_string()))?;
    for &(class, p) in classes {
        let name = plain(&classifier.label(class));
        writeln!(out, "  {:6.2} %  {name} ({class})", 100.0 * p)?;
    }
    Ok(())
}

/// Writes that a photo has no classes, as JSON: otherwise standard error alone says so.
fn show_error(out: &mut impl Write, name: &str, reason: &str, as_json: bool) -> std::io::Result<()> {
    match as_json {
        true => writeln!(out, "{}", json!({"image": name, "error": reason})),
        false => Ok(()),
    }
}

/// Writes the photo with its heat map into the folder, under its own name.
fn draw(folder: &Path, path: &Path, photo: &Photo, classifier: &Classifier, map: Map) -> Result<()> {
    let size = (map.len(), map.first().map_or(0, Vec::len));
    let drawn = overlay(photo, &classifier.transform.window(photo), &map.concat(), size);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    // Photos from different folders may have the same name.
    let free = |i: usize| folder.join(if i == 1 { format!("{stem}.png") } else { format!("{stem}-{i}.png") });
    let target = (1..).map(free).find(|target| !target.exists()).context("no free name")?;
    Ok(drawn.save(&target)?)
}
