//! Our engine's process in a benchmark of training.

use super::step::{MOMENTUM, PARTS, RATE};
use crate::bench::grouped::{self, Pass};
use crate::bench::protocol::{self, Request};
use crate::bench::stats::{LayerTimes, quantile};
use crate::bench::target::Target;
use crate::dtype_arg::Dtype;
use crate::inputs::noise;
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use resnext_model::{ResNext, Variables, Weights};
use resnext_ops::{profiled, to_channels_last};
use resnext_train::{Sgd, SgdConfig, forward_backward};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

/// Answers requests on standard input until the input ends.
pub fn serve(target: &Target, weights: &Path, grad_checkpoint: bool) -> Result<()> {
    let dtype = *target.dtypes.first().context("--serve needs a --dtype")?;
    let variables = Variables::new(0, DType::F32, &Device::Cpu);
    let mut network = ResNext::new(target.network.config()?, variables.builder())?;
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
    let classes = target.network.classes();
    let mut worker = Worker { network, optimizer, classes, batches: BTreeMap::new() };
    protocol::serve(dtype, |request| worker.answer(request))
}

/// A network in training.
struct Worker {
    network: ResNext,
    optimizer: Sgd,
    classes: usize,
    /// Loaders by batch size and image side.
    batches: BTreeMap<(usize, usize), Receiver<(Tensor, Tensor)>>,
}

impl Worker {
    fn answer(&mut self, request: &Request) -> Result<Value> {
        match request.action() {
            "train" => self.train(request),
            "train-layers" => self.time_layers(request),
            "grouped_backward" => grouped::answer(request, Pass::ForwardBackward),
            "memory" => protocol::memory(),
            _ => protocol::unknown(request),
        }
    }

    /// Trains some steps: the loss of each, and the times of its [`PARTS`].
    fn train(&mut self, request: &Request) -> Result<Value> {
        let (mut parts, mut losses) = ([(); PARTS.len()].map(|()| Vec::new()), Vec::new());
        for _ in 0..request.number("steps") {
            let (loss, times) = self.step(request.batch_and_size())?;
            losses.push(loss);
            parts.iter_mut().zip(times).for_each(|(part, time)| part.push(time));
        }
        let mut answer = json!({"losses": losses});
        for (name, part) in PARTS.iter().zip(&parts) {
            answer[*name] = json!(part);
        }
        Ok(answer)
    }

    /// The median time of each layer over some steps.
    fn time_layers(&mut self, request: &Request) -> Result<Value> {
        let mut times = LayerTimes::default();
        for _ in 0..request.number("steps") {
            // A profile is a thread's own. On a thread of rayon's pool, the step's own `scope` stays on that
            // thread.
            let (done, layers) = rayon::scope(|_| profiled(|| self.step(request.batch_and_size())));
            done?;
            times.start_run();
            layers.iter().for_each(|(name, time)| times.add(name, time.as_secs_f64() * 1e3));
        }
        let medians = times.into_times().into_iter().map(|(name, ms)| (name, quantile(&ms, 0.5)));
        Ok(json!({"layers": medians.collect::<Vec<_>>()}))
    }

    /// Trains one step: the loss, and the milliseconds of its [`PARTS`].
    fn step(&mut self, size: (usize, usize)) -> Result<(f64, [f64; PARTS.len()])> {
        let classes = self.classes;
        let batches = match self.batches.entry(size) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(loader(size, classes)?),
        };
        let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        let start = Instant::now();
        let (images, labels) = batches.recv()?;
        let ready = Instant::now();
        let step = forward_backward(&self.network, &images, &labels, 0.0)?;
        let loss = step.loss.to_scalar::<f32>()? as f64;
        let backward = Instant::now();
        self.optimizer.step(RATE, |var| step.gradients.get(var))?;
        let forward = step.forward_end;
        drop(step);
        let end = Instant::now();
        Ok((loss, [ms(ready, forward), ms(forward, backward), ms(backward, end), ms(start, ready)]))
    }
}

/// Batches of the same images, each copied anew on another thread, as a data set's loader would.
fn loader((batch, side): (usize, usize), classes: usize) -> Result<Receiver<(Tensor, Tensor)>> {
    let images = to_channels_last(&noise(&[batch, 3, side, side])?)?
        .permute((0, 2, 3, 1))?
        .flatten_all()?
        .to_vec1::<f32>()?;
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
