//! Inference, ours beside the other engines'.

mod chart;
mod report;
mod worker;

use super::args::Args;
use super::engine::{Engine, PAUSE};
use super::grouped::{self, GroupedTimes, Pass};
use super::peers::{Peers, ours};
use super::stats::largest_difference;
use super::target::Target;
use crate::dtype_arg::Dtype;
use crate::inputs::images;
use anyhow::{Result, ensure};
use candle_core::{DType, Device};
use indicatif::ProgressBar;
use report::{Contestant, InferenceReport, Layer, Roofline, Timing};
use resnext_model::{Calibration, Fused, Summary, Weights};
use resnext_train::checkpoint::replace_file;
use serde_json::json;
use std::path::{Path, PathBuf};
pub use worker::serve;

/// Batch sizes that are measured by default.
const BATCHES: [usize; 3] = [1, 8, 32];
/// Timed forward passes per turn. Each turn starts with one more, which is not timed: it finds the caches
/// full of the previous engine's weights.
const RUNS: usize = 3;

/// Measures, prints the report and draws the chart. `folder` is for files that the engines need only now.
pub fn benchmark(args: &Args, target: &Target, weights: &Path, folder: &Path) -> Result<()> {
    target.dtypes.iter().for_each(|dtype| dtype.say_how());
    let batches = if args.batch.is_empty() { &BATCHES[..] } else { &args.batch };
    let report = measure(args, target, batches, start_engines(args, target, weights, folder)?)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    if let Some(parent) = args.chart.parent() {
        std::fs::create_dir_all(parent)?;
    }
    replace_file(&args.chart, chart::draw(&report)?.as_bytes())?;
    if !args.json {
        println!("\nchart: {}", args.chart.display());
    }
    Ok(())
}

/// Starts ours, once for each type, and with `--peers` the others.
fn start_engines(args: &Args, target: &Target, weights: &Path, folder: &Path) -> Result<Vec<Engine>> {
    let mut engines = Vec::new();
    for &dtype in &target.dtypes {
        let mut command = ours(target, weights, dtype)?;
        if dtype == Dtype::Int8 {
            command.arg("--ranges").arg(match &args.ranges {
                Some(path) => path.clone(),
                None => calibrate_on_input(target, weights, folder)?,
            });
        }
        engines.push(Engine::start("resnext", &mut command, target.size)?);
    }
    if args.peers {
        ensure!(!target.is_cifar(), "--peers needs a network with an ImageNet stem");
        let peers = Peers::new(&args.python, target, weights)?;
        let onnx = folder.join("model.onnx");
        peers.write_onnx(&onnx)?;
        for name in ["openvino-f32", "openvino", "onnxruntime"] {
            engines.push(Engine::start(name, &mut peers.serve_onnx(name, &onnx), target.size)?);
        }
        if target.dtypes.contains(&Dtype::Int8) {
            let int8 = folder.join("int8.onnx");
            peers.quantize_onnx(&onnx, &int8)?;
            for name in ["openvino-int8", "onnxruntime-int8"] {
                engines.push(Engine::start(name, &mut peers.serve_onnx(name, &int8), target.size)?);
            }
        }
        let pytorch: &[&str] =
            if peers.torchvision_has_it() { &["pytorch", "pytorch-channels-last"] } else { &[] };
        for name in pytorch {
            engines.push(Engine::start(name, &mut peers.serve_pytorch(name)?, target.size)?);
        }
    }
    Ok(engines)
}

/// Writes the ranges that feature maps have for the benchmark's own input.
fn calibrate_on_input(target: &Target, weights: &Path, folder: &Path) -> Result<PathBuf> {
    let weights = Weights::open(weights)?.builder(DType::F32, &Device::Cpu);
    let mut calibration = Calibration::new();
    let network = Fused::new(target.network.config()?, weights, DType::F32)?;
    network.calibrate(&images(1, target.size)?, &mut calibration)?;
    let path = folder.join("ranges.json");
    replace_file(&path, &serde_json::to_vec(&calibration.ranges()?)?)?;
    Ok(path)
}

fn measure(
    args: &Args,
    target: &Target,
    batches: &[usize],
    mut engines: Vec<Engine>,
) -> Result<InferenceReport> {
    let summary = target.network.summary(target.size, target.size)?;
    let roofline = Roofline::measure();
    let times = time_in_turns(args, target, batches, &mut engines)?;
    let layers =
        if args.layers { time_layers(args, target, &summary, &roofline, &mut engines)? } else { vec![] };
    let grouped = if args.peers { time_grouped(&mut engines)? } else { vec![] };
    let our_logits = &engines[0].logits;
    let contestant = |(engine, times): (&Engine, Vec<Vec<f64>>)| Contestant {
        engine: engine.name.clone(),
        version: engine.version.clone(),
        precision: engine.precision.clone(),
        timings: batches
            .iter()
            .zip(times)
            .map(|(&batch, ms)| Timing::new(batch, ms, &summary, roofline.peak(&engine.precision)))
            .collect(),
        peak_mb: engine.peak_mb,
        first_logits_s: engine.first_logits_s,
        logits_error: largest_difference(&engine.logits, our_logits),
    };
    Ok(InferenceReport {
        model: target.name.clone(),
        size: target.size,
        threads: target.threads,
        rounds: args.rounds,
        instructions: resnext_ops::Isa::current().name(),
        peak_gflops: roofline.peak(Dtype::F32.name()) / 1e9,
        bandwidth_gb: roofline.bandwidth / 1e9,
        contestants: engines.iter().zip(times).map(contestant).collect(),
        layers,
        grouped,
    })
}

/// Times forward passes, in milliseconds: by engine, then by batch size. In each round the engines take
/// turns.
fn time_in_turns(
    args: &Args,
    target: &Target,
    batches: &[usize],
    engines: &mut [Engine],
) -> Result<Vec<Vec<Vec<f64>>>> {
    let bar = ProgressBar::new((batches.len() * args.rounds * engines.len()) as u64);
    let mut times = vec![vec![Vec::new(); batches.len()]; engines.len()];
    for (b, &batch) in batches.iter().enumerate() {
        for _ in 0..args.rounds {
            for (engine, times) in engines.iter_mut().zip(&mut times) {
                if args.peers {
                    std::thread::sleep(PAUSE);
                }
                times[b].extend(&engine.time(batch, target.size, RUNS + 1)?[1..]);
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    Ok(times)
}

/// Times each layer of our first engine, at batch 1.
fn time_layers(
    args: &Args,
    target: &Target,
    summary: &Summary,
    roofline: &Roofline,
    engines: &mut [Engine],
) -> Result<Vec<Layer>> {
    let request = json!({"do": "layers", "batch": 1, "size": target.size, "runs": args.rounds});
    let answer = engines[0].ask(request)?;
    let times: Vec<(String, Vec<f64>)> = serde_json::from_value(answer["layers"].clone())?;
    let layer = |(name, ms): (String, Vec<f64>)| {
        let dtype = target.dtypes[0].of_layer(&name);
        Layer::new(name, &ms, dtype, summary, roofline)
    };
    Ok(times.into_iter().map(layer).collect())
}

/// Times grouped convolutions in f32, ours and PyTorch's, if it runs and our first engine computes in f32.
fn time_grouped(engines: &mut [Engine]) -> Result<Vec<GroupedTimes>> {
    match engines.split_first_mut() {
        Some((ours, peers)) if ours.precision == Dtype::F32.name() => {
            let mut compared = vec![ours];
            compared.extend(peers.iter_mut().filter(|engine| engine.name.starts_with("pytorch")));
            if compared.len() == 1 {
                return Ok(Vec::new());
            }
            grouped::measure(&mut compared, Pass::Forward)
        }
        _ => Ok(Vec::new()),
    }
}
