//! Our side of the protocol of `bench/peers`: a process that answers requests, so that start-up, memory and
//! time are measured as the peers' are.

use super::Target;
use super::grouped::{self, Pass};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use resnext_model::{Fused, Weights};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

/// Answers JSON lines on standard input until its end.
pub fn serve(target: &Target, weights: &Path, ranges: Option<&Path>) -> Result<()> {
    let dtype = *target.dtypes.first().context("--serve needs a --dtype")?;
    let weights = Weights::open(weights)?.builder(DType::F32, &Device::Cpu);
    let network = dtype.network(&target.config, weights, dtype.ranges(ranges)?.as_ref())?;
    let mut out = std::io::stdout().lock();
    let version = env!("CARGO_PKG_VERSION");
    writeln!(
        out,
        "{}",
        json!({"ready": true, "engine": "resnext", "version": version, "precision": dtype.name()})
    )?;
    out.flush()?;
    let mut inputs = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let answer = match request["do"].as_str() {
            Some("quit") => break,
            _ => answer(&network, &request, &mut inputs)
                .unwrap_or_else(|error| json!({"error": format!("{error:#}")})),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn answer(network: &Fused, request: &Value, inputs: &mut HashMap<(usize, usize), Tensor>) -> Result<Value> {
    let number = |key: &str| request[key].as_u64().unwrap_or(1) as usize;
    let size = (number("batch"), number("size"));
    let mut input = || -> Result<Tensor> {
        if let Some(x) = inputs.get(&size) {
            return Ok(x.clone());
        }
        let x = images(size.0, size.1)?;
        // What is not measured: growing the buffers to this size.
        network.forward(&x)?;
        Ok(inputs.entry(size).or_insert(x).clone())
    };
    match request["do"].as_str() {
        Some("time") => {
            let x = input()?;
            let mut times = Vec::new();
            for _ in 0..number("runs") {
                let start = Instant::now();
                network.forward(&x)?;
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
            Ok(json!({"ms": times}))
        }
        Some("logits") => Ok(json!({"logits": network.forward(&images(size.0, size.1)?)?.to_vec2::<f32>()?})),
        Some("layers") => {
            let x = input()?;
            let mut layers: Vec<(String, Vec<f64>)> = Vec::new();
            for run in 0..number("runs") {
                let mut i = 0;
                network.forward_observed(&x, &mut |name, time| {
                    let ms = time.as_secs_f64() * 1e3;
                    if run == 0 {
                        layers.push((name.to_string(), vec![ms]));
                    } else {
                        layers[i].1.push(ms);
                    }
                    i += 1;
                })?;
            }
            Ok(json!({"layers": layers}))
        }
        Some("grouped") => grouped::answer(request, Pass::Forward),
        Some("memory") => Ok(json!({"peak_mb": peak_memory()?})),
        other => bail!("unknown request {other:?}"),
    }
}

/// Images (N, 3, S, S) by the formula of `bench/peers/peers.py`.
pub(super) fn images(batch: usize, size: usize) -> Result<Tensor> {
    filled(&[batch, 3, size, size])
}

/// A tensor by that formula.
pub(super) fn filled(shape: &[usize]) -> Result<Tensor> {
    let value = |i: u64| (((i * 2654435761) % (1 << 32)) as f64 / (1u64 << 32) as f64 * 4.0 - 2.0) as f32;
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(value).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// The most memory this process has had resident, in MiB.
pub(super) fn peak_memory() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    match line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()) {
        Some(kib) => Ok(kib / 1024.0),
        None => bail!("no VmHWM in /proc/self/status"),
    }
}
