//! Our engine's process in a benchmark of inference.

use crate::bench::grouped::{self, Pass};
use crate::bench::protocol::{self, Request};
use crate::bench::stats::LayerTimes;
use crate::bench::target::Target;
use crate::inputs::images;
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use resnext_model::{AnyFused, Weights};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

/// Answers requests on standard input until the input ends.
pub fn serve(target: &Target, weights: &Path, ranges: Option<&Path>) -> Result<()> {
    let dtype = *target.dtypes.first().context("--serve needs a --dtype")?;
    let weights = Weights::open(weights)?.builder(DType::F32, &Device::Cpu);
    let ranges = dtype.ranges(ranges)?;
    let network = AnyFused::new(&target.network, weights, dtype.into(), ranges.as_ref())?;
    let mut worker = Worker { network, inputs: HashMap::new() };
    protocol::serve(dtype, |request| worker.answer(request))
}

struct Worker {
    network: AnyFused,
    /// Images by batch size and side.
    inputs: HashMap<(usize, usize), Tensor>,
}

impl Worker {
    fn answer(&mut self, request: &Request) -> Result<Value> {
        match request.action() {
            "time" => self.time(request),
            "logits" => {
                let (batch, size) = request.batch_and_size();
                let logits = self.network.forward(&images(batch, size)?)?;
                Ok(json!({"logits": logits.to_vec2::<f32>()?}))
            }
            "layers" => self.time_layers(request),
            "grouped" => grouped::answer(request, Pass::Forward),
            "memory" => protocol::memory(),
            _ => protocol::unknown(request),
        }
    }

    fn time(&mut self, request: &Request) -> Result<Value> {
        let x = self.input(request)?;
        let mut times = Vec::new();
        for _ in 0..request.number("runs") {
            let start = Instant::now();
            self.network.forward(&x)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(json!({"ms": times}))
    }

    fn time_layers(&mut self, request: &Request) -> Result<Value> {
        let x = self.input(request)?;
        let mut times = LayerTimes::default();
        for _ in 0..request.number("runs") {
            times.start_run();
            self.network.forward_observed(&x, &mut |name, time| times.add(name, time.as_secs_f64() * 1e3))?;
        }
        Ok(json!({"layers": times.into_times()}))
    }

    /// The images of a request's size.
    fn input(&mut self, request: &Request) -> Result<Tensor> {
        let (batch, size) = request.batch_and_size();
        if let Some(x) = self.inputs.get(&(batch, size)) {
            return Ok(x.clone());
        }
        let x = images(batch, size)?;
        // Buffers grow to this size now, which is not measured.
        self.network.forward(&x)?;
        Ok(self.inputs.entry((batch, size)).or_insert(x).clone())
    }
}
