//! `cargo xtask bench --train`: training steps, ours beside PyTorch's, on the same weights and images.

use super::engine::Engine;
use super::grouped::{self, Grouped, Pass};
use super::report::quantile;
use super::serve::peak_memory;
use super::{Args, PAUSE, Target};
use crate::dtype::Dtype;
use crate::table::Table;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use resnext_model::{ResNext, Stem, Summary, Variables, Weights};
use resnext_ops::{cross_entropy, profiled, to_channels_last, value_and_gradients};
use resnext_train::{Sgd, SgdConfig};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

/// Of a warm-up's first steps, small enough that rounding is not amplified: of ResNeXt-50's third losses, PyTorch's in
/// f32 is 1.4e-3 from PyTorch's in f64 at 1e-4, its two formats' are 2.4e-4 apart at 1e-5, and 8e-6 at 1e-6.
const RATE: f64 = 1e-6;
const MOMENTUM: f64 = 0.9;
/// Steps whose losses are compared.
const COMPARED: usize = 3;
/// How far they may be apart, relative, to be of the same computation.
const SAME: f64 = 1e-4;

/// What was measured.
#[derive(Serialize)]
struct Report {
    model: String,
    size: usize,
    batch: usize,
    threads: usize,
    rounds: usize,
    instructions: &'static str,
    grad_checkpoint: bool,
    peak_gflops: f64,
    /// Ours first.
    engines: Vec<Measured>,
    /// Medians, of the parts of a step that fused operations did.
    layers: Vec<(String, f64)>,
    /// Grouped 3×3 convolutions by themselves, where the network has such.
    grouped: Vec<Grouped>,
}

#[derive(Serialize)]
struct Measured {
    engine: String,
    precision: String,
    version: String,
    step_ms: f64,
    step_p10_ms: f64,
    step_p90_ms: f64,
    forward_ms: f64,
    backward_ms: f64,
    optimizer_ms: f64,
    /// For the loader's next batch.
    wait_ms: f64,
    images_per_s: f64,
    /// Of three times the forward pass's multiply-adds.
    gflops: f64,
    peak_mb: f64,
    losses: Vec<f64>,
    /// Of the losses from ours, relative.
    loss_error: f64,
}

const PARTS: [&str; 4] = ["forward_ms", "backward_ms", "optimizer_ms", "wait_ms"];

pub fn run(args: &Args, target: &Target, weights: &Path) -> Result<()> {
    ensure!(!target.dtypes.contains(&Dtype::Int8), "--train is in f32 or bf16");
    if args.serve {
        let dtype = *target.dtypes.first().context("--serve needs a --dtype")?;
        return serve(target, weights, dtype, args.grad_checkpoint);
    }
    let cifar = target.config.stem == Stem::Cifar;
    let batch = match args.batch[..] {
        [] if cifar => 128,
        [] => 16,
        [batch] => batch,
        _ => bail!("--train takes one --batch, got {:?}", args.batch),
    };
    let threads = target.threads.to_string();
    let mut engines = Vec::new();
    for dtype in &target.dtypes {
        let mut ours = Command::new(std::env::current_exe()?);
        ours.args(["bench", &target.name, "--train", "--serve", "--threads", &threads]);
        ours.args(["--dtype", dtype.name(), "--weights"]).arg(weights);
        if args.grad_checkpoint {
            ours.arg("--grad-checkpoint");
        }
        engines.push(Engine::connect("resnext", &mut ours)?);
    }
    if args.peers {
        ensure!(target.config.planes == 64, "--peers needs a network with 64 planes");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/peers/peers.py");
        let depths: Vec<String> = target.config.depths.iter().map(ToString::to_string).collect();
        let names: &[&str] =
            if cifar { &["pytorch", "pytorch-channels-last"] } else { &["pytorch-channels-last"] };
        for name in names {
            let mut command = Command::new(&args.python);
            command
                .arg(&script)
                .args(["serve", "--engine", name, "--threads", &threads, "--weights"])
                .arg(weights);
            command.args(["--stem", if cifar { "cifar" } else { "imagenet" }, "--depths", &depths.join(",")]);
            command.args(["--groups", &target.config.cardinality.to_string()]);
            command.args(["--width", &target.config.base_width.to_string()]);
            command.args(["--classes", &target.config.classes.to_string()]);
            engines.push(Engine::connect(name, &mut command)?);
        }
    }
    let report = measure(args, target, batch, &mut engines)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => report.print(),
    }
    Ok(())
}

fn measure(args: &Args, target: &Target, batch: usize, engines: &mut [Engine]) -> Result<Report> {
    let (peak, size) = (resnext_ops::fma_peak(DType::F32).unwrap_or(f64::NAN), target.size);
    let request = |steps: usize| json!({"do": "train", "batch": batch, "size": size, "steps": steps, "rate": RATE, "momentum": MOMENTUM});
    let mut losses: Vec<Vec<f64>> = Vec::new();
    for engine in engines.iter_mut() {
        losses.push(serde_json::from_value(engine.ask(request(COMPARED))?["losses"].clone())?);
    }
    let mut times = vec![vec![Vec::new(); PARTS.len()]; engines.len()];
    for _ in 0..args.rounds {
        for (engine, times) in engines.iter_mut().zip(&mut times) {
            std::thread::sleep(PAUSE);
            let answer = engine.ask(request(1))?;
            for (part, times) in PARTS.iter().zip(times) {
                times.extend(serde_json::from_value::<Vec<f64>>(answer[part].clone())?);
            }
        }
    }
    let peak_mb = engines.iter_mut().map(Engine::memory).collect::<Result<Vec<_>>>()?;
    let layers = match args.layers {
        true => serde_json::from_value(
            engines[0].ask(json!({"do": "train-layers", "batch": batch, "size": size, "steps": 3}))?["layers"].clone(),
        )?,
        false => Vec::new(),
    };
    // Convolutions by themselves are f32's.
    let single = |engine: &&mut Engine| engine.precision == Dtype::F32.name();
    let grouped = match target.config.stem {
        Stem::ImageNet if target.dtypes[0] == Dtype::F32 => grouped::measure(
            &mut engines.iter_mut().filter(single).collect::<Vec<_>>(),
            Pass::ForwardBackward,
        )?,
        _ => Vec::new(),
    };
    let flops = 6.0 * (Summary::new(&target.config, size, size)?.multiply_adds() * batch) as f64;
    let measured = engines.iter().enumerate().map(|(i, engine)| {
        let steps: Vec<f64> = (0..args.rounds).map(|r| times[i].iter().map(|part| part[r]).sum()).collect();
        let median = |part: usize| quantile(&times[i][part], 0.5);
        let step_ms = quantile(&steps, 0.5);
        let errors = losses[i].iter().zip(&losses[0]).map(|(a, b)| (a / b - 1.0).abs());
        Measured {
            engine: engine.name.clone(),
            precision: engine.precision.clone(),
            version: engine.version.clone(),
            step_ms,
            step_p10_ms: quantile(&steps, 0.1),
            step_p90_ms: quantile(&steps, 0.9),
            forward_ms: median(0),
            backward_ms: median(1),
            optimizer_ms: median(2),
            wait_ms: median(3),
            images_per_s: batch as f64 / step_ms * 1e3,
            gflops: flops / step_ms / 1e6,
            peak_mb: peak_mb[i],
            losses: losses[i].clone(),
            loss_error: errors.fold(0.0, f64::max),
        }
    });
    Ok(Report {
        model: target.name.clone(),
        size,
        batch,
        threads: target.threads,
        rounds: args.rounds,
        instructions: resnext_ops::Isa::current().name(),
        grad_checkpoint: args.grad_checkpoint,
        peak_gflops: peak / 1e9,
        engines: measured.collect(),
        layers,
        grouped,
    })
}

impl Report {
    fn print(&self) {
        let Report { model, size, batch, threads, rounds, instructions, peak_gflops, .. } = self;
        println!(
            "training {model}, {size}×{size}, batch {batch}, {threads} threads, {instructions}, {rounds} rounds"
        );
        println!("this machine: {peak_gflops:.0} GFLOP/s");
        let mut table = Table::new(&[
            "engine",
            "type",
            "step ms",
            "p10",
            "p90",
            "forward",
            "backward",
            "optimizer",
            "wait",
            "images/s",
            "GFLOP/s",
            "of peak",
            "ours is",
            "MiB",
            "loss 3",
            "losses differ",
        ]);
        for engine in &self.engines {
            let ratio = engine.step_ms / self.engines[0].step_ms;
            let ms = |v: f64| format!("{v:.0}");
            table.row(vec![
                engine.engine.clone(),
                engine.precision.clone(),
                ms(engine.step_ms),
                ms(engine.step_p10_ms),
                ms(engine.step_p90_ms),
                ms(engine.forward_ms),
                ms(engine.backward_ms),
                format!("{:.1}", engine.optimizer_ms),
                format!("{:.1}", engine.wait_ms),
                format!("{:.1}", engine.images_per_s),
                ms(engine.gflops),
                format!("{:.0} %", 100.0 * engine.gflops / peak_gflops),
                format!("{ratio:.2}× faster"),
                ms(engine.peak_mb),
                engine.losses.last().map(|loss| format!("{loss:.5}")).unwrap_or_default(),
                format!("{:.0e}", engine.loss_error),
            ]);
        }
        print!("{}", table.show(false));
        let (first, others) = (&self.engines[0], &self.engines[1..]);
        for Measured { engine, precision, loss_error, .. } in others {
            let verdict = match (*precision == first.precision, *loss_error <= SAME) {
                (false, _) => format!("{precision} beside {}", first.precision),
                (true, true) => format!("within the bar of {SAME:.0e}"),
                (true, false) => format!("NOT within the bar of {SAME:.0e}"),
            };
            println!(
                "{engine}: the losses of {COMPARED} steps differ by {loss_error:.1e} at most, relative, {verdict}"
            );
        }
        if !self.grouped.is_empty() {
            print!("\n{}", grouped::table(&self.grouped, Pass::ForwardBackward));
        }
        if !self.layers.is_empty() {
            let mut table = Table::new(&["layer", "ms"]);
            self.layers.iter().for_each(|(name, ms)| table.row(vec![name.clone(), format!("{ms:.2}")]));
            print!("\n{}", table.show(false));
        }
    }
}

/// A network in the middle of training.
struct Run {
    network: ResNext,
    optimizer: Sgd,
    classes: usize,
    batches: BTreeMap<(usize, usize), Receiver<(Tensor, Tensor)>>,
}

/// Answers JSON lines on standard input until its end.
fn serve(target: &Target, weights: &Path, dtype: Dtype, grad_checkpoint: bool) -> Result<()> {
    let variables = Variables::new(0, DType::F32, &Device::Cpu);
    let mut network = ResNext::new(&target.config, variables.builder())?;
    network.set_recompute(grad_checkpoint);
    if dtype == Dtype::Bf16 {
        network.set_mixed_precision(Some(DType::BF16))?;
    }
    let file = Weights::open(weights)?.builder(DType::F32, &Device::Cpu);
    for (name, var) in variables.all() {
        var.set(&file.get(var.shape(), &name).with_context(|| name.clone())?)?;
    }
    let config = SgdConfig { momentum: MOMENTUM, nesterov: false, weight_decay: 0.0 };
    let optimizer = Sgd::new(variables.trainable(), config)?;
    let mut run = Run { network, optimizer, classes: target.config.classes, batches: BTreeMap::new() };
    let mut out = std::io::stdout().lock();
    let version = env!("CARGO_PKG_VERSION");
    let precision = dtype.name();
    writeln!(
        out,
        "{}",
        json!({"ready": true, "engine": "resnext", "version": version, "precision": precision})
    )?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let answer = run.answer(&request).unwrap_or_else(|error| json!({"error": format!("{error:#}")}));
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

impl Run {
    fn answer(&mut self, request: &Value) -> Result<Value> {
        let number = |key: &str| request[key].as_u64().unwrap_or(1) as usize;
        let (size, steps) = ((number("batch"), number("size")), number("steps"));
        match request["do"].as_str() {
            Some("train") => {
                let (mut parts, mut losses) = ([(); 4].map(|()| Vec::new()), Vec::new());
                for _ in 0..steps {
                    let (loss, times) = self.step(size)?;
                    losses.push(loss);
                    parts.iter_mut().zip(times).for_each(|(part, time)| part.push(time));
                }
                let mut answer = json!({"losses": losses});
                for (name, part) in PARTS.iter().zip(&parts) {
                    answer[*name] = json!(part);
                }
                Ok(answer)
            }
            Some("train-layers") => {
                let mut layers: Vec<(String, Vec<f64>)> = Vec::new();
                for run in 0..steps {
                    // On a thread of the pool, where the step's own hand-over is the step itself.
                    let (done, times) = rayon::scope(|_| profiled(|| self.step(size).map(|_| ())));
                    done?;
                    for (i, (name, time)) in times.into_iter().enumerate() {
                        let ms = time.as_secs_f64() * 1e3;
                        match run {
                            0 => layers.push((name, vec![ms])),
                            _ => layers[i].1.push(ms),
                        }
                    }
                }
                let medians = layers.into_iter().map(|(name, ms)| (name, quantile(&ms, 0.5)));
                Ok(json!({"layers": medians.collect::<Vec<_>>()}))
            }
            Some("grouped_backward") => grouped::answer(request, Pass::ForwardBackward),
            Some("memory") => Ok(json!({"peak_mb": peak_memory()?})),
            other => bail!("unknown request {other:?}"),
        }
    }

    /// The loss, and milliseconds of [`PARTS`].
    fn step(&mut self, size: (usize, usize)) -> Result<(f64, [f64; 4])> {
        let classes = self.classes;
        let batches = match self.batches.entry(size) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(loader(size, classes)?),
        };
        let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        let start = Instant::now();
        let (images, labels) = batches.recv()?;
        let ready = Instant::now();
        let network = &self.network;
        let (loss, gradients, forward) = rayon::scope(|_| -> Result<_> {
            let mut forward = ready;
            let (loss, gradients) = value_and_gradients(|| -> resnext_model::Result<Tensor> {
                let loss = cross_entropy(&network.forward(&images, true)?, &labels, 0.0)?;
                forward = Instant::now();
                Ok(loss)
            })?;
            Ok((loss.to_scalar::<f32>()? as f64, gradients, forward))
        })?;
        let backward = Instant::now();
        self.optimizer.step(RATE, |var| gradients.get(var))?;
        drop(gradients);
        let end = Instant::now();
        Ok((loss, [ms(ready, forward), ms(forward, backward), ms(backward, end), ms(start, ready)]))
    }
}

/// Batches of the same images, each made anew on another thread, as a data set's loader would.
fn loader((batch, side): (usize, usize), classes: usize) -> Result<Receiver<(Tensor, Tensor)>> {
    let images =
        to_channels_last(&noise(batch, side)?)?.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1::<f32>()?;
    let labels: Vec<u32> = (0..batch).map(|i| (i % classes) as u32).collect();
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let make = || -> candle_core::Result<(Tensor, Tensor)> {
            let x =
                Tensor::from_slice(&images, (batch, side, side, 3), &Device::Cpu)?.permute((0, 3, 1, 2))?;
            Ok((x, Tensor::from_slice(&labels, batch, &Device::Cpu)?))
        };
        while make().is_ok_and(|made| sender.send(made).is_ok()) {}
    });
    Ok(receiver)
}

/// Images (N, 3, S, S) of noise by the formula of `bench/peers/peers.py`: those of inference are so alike that batch
/// norm would blow up their differences.
fn noise(batch: usize, size: usize) -> Result<Tensor> {
    let value = |i: u32| {
        let mut x = i.wrapping_mul(2654435761);
        x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
        x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
        ((x ^ x >> 16) as f64 / (1u64 << 32) as f64 * 4.0 - 2.0) as f32
    };
    let values: Vec<f32> = (0..(batch * 3 * size * size) as u32).map(value).collect();
    Ok(Tensor::from_vec(values, (batch, 3, size, size), &Device::Cpu)?)
}
