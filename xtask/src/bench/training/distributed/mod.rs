//! Training steps of several processes: how long they take, how much of that is the sums of gradients, and how much of
//! the sums is hidden behind the backward pass.

mod sums;
mod timeline;

use super::step::RATE;
use crate::bench::args::Args;
use crate::bench::stats::quantile;
use crate::bench::target::Target;
use crate::launch::Launch;
use crate::text_table::Table;
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use resnext_train::distributed::{DistributedConfig, ExchangeTimes, Processes};
use resnext_train::{BatchReport, Batches, Checkpoint, Data, EpochReport, Observer, TrainConfig, Trainer};
use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Steps before those that are measured. In the first one the order of gradients is not known yet.
const WARM_UP: usize = 2;
const CLASSES: usize = 1000;

/// Measures `--rounds` steps of all processes together, the sums alone, and steps of the first process alone with its
/// part of a batch. The first process prints.
pub fn benchmark(args: &Args, target: &Target, batch: usize) -> Result<ExitCode> {
    let launch = Launch::start(args.shared.timeout())?;
    let measured = measure(args, target, batch, &launch).map(|()| ExitCode::SUCCESS);
    launch.end(measured)
}

fn measure(args: &Args, target: &Target, batch: usize, launch: &Launch) -> Result<()> {
    let (processes, config) = (launch.processes.size(), args.shared.config());
    ensure!(!args.json, "--distributed prints tables, not JSON");
    ensure!(
        batch.is_multiple_of(processes),
        "{processes} processes cannot share --batch {batch} evenly: choose a multiple of {processes}"
    );
    launch.all_are_ready()?;
    let part = batch / processes;
    let bytes = gradient_bytes(target)?;
    let together = steps(args.rounds, target, part, Some((Arc::clone(&launch.processes), config)))?;
    let sums = sums::measure(&launch.processes, bytes, &config)?;
    // The others wait meanwhile, so that the cores and the memory are the first one's.
    let alone = if launch.leads() { Some(steps(args.rounds, target, part, None)?) } else { None };
    launch.processes.gather(&[], "measuring one process alone")?;
    if let Some(alone) = alone {
        print!("{}", Report { target, batch, processes, bytes, together, alone, sums, config });
    }
    Ok(())
}

/// The bytes of the network's gradients in f32.
fn gradient_bytes(target: &Target) -> Result<usize> {
    Ok(4 * target.network.summary(target.size, target.size)?.parameters())
}

/// The time of each step, and what its sums cost, per step.
struct Steps {
    times: Vec<f64>,
    /// Milliseconds per step on the communication thread, and those of them that the step waited for.
    busy: f64,
    waited: f64,
    exchange: ExchangeTimes,
}

/// The same images in every step.
struct Repeated {
    images: Tensor,
    labels: Tensor,
    steps: usize,
    processes: usize,
}

impl Data for Repeated {
    fn images_per_epoch(&self) -> usize {
        self.steps * self.batch_size()
    }

    fn batch_size(&self) -> usize {
        self.labels.elem_count() * self.processes
    }

    fn image_size(&self) -> (usize, usize) {
        let dims = self.images.dims();
        (dims[2], dims[3])
    }

    fn fingerprint(&self) -> String {
        "images of one grey".into()
    }

    fn train(&self, _: usize, skip: usize) -> Batches<'_> {
        let left = self.steps - skip / self.batch_size();
        Box::new((0..left).map(|_| Ok((self.images.clone(), self.labels.clone()))))
    }

    fn test(&self) -> Batches<'_> {
        Box::new(std::iter::empty())
    }
}

/// Notes when each step ended, and stops after some.
struct Clock {
    ends: Vec<Instant>,
    stop_after: usize,
}

impl Observer for Clock {
    fn on_batch(&mut self, _: &BatchReport) {
        self.ends.push(Instant::now());
    }

    fn on_epoch(&mut self, _: &EpochReport) -> resnext_train::Result<()> {
        Ok(())
    }

    fn save(&mut self, _: &Checkpoint, _: bool) -> resnext_train::Result<()> {
        Ok(())
    }

    fn should_stop(&self) -> bool {
        self.ends.len() >= self.stop_after
    }
}

/// Runs training steps of `images` images per process; by this process alone without `shared`.
fn steps(
    rounds: usize,
    target: &Target,
    images: usize,
    shared: Option<(Arc<Processes>, DistributedConfig)>,
) -> Result<Steps> {
    let mut model = target.network.config()?.clone();
    model.classes = if target.is_cifar() { model.classes } else { CLASSES };
    let config = TrainConfig { epochs: 1, lr: RATE, ..Default::default() };
    let mut trainer = Trainer::new(&model, config, serde_json::Value::Null, &Device::Cpu)?;
    let mut processes = 1;
    if let Some((own, config)) = shared {
        processes = own.size();
        trainer.distribute(own, &config)?;
    }
    let labels = (0..images).map(|image| (image % model.classes) as u32).collect::<Vec<u32>>();
    let data = Repeated {
        images: Tensor::ones((images, target.size, target.size, 3), DType::F32, &Device::Cpu)?
            .permute((0, 3, 1, 2))?,
        labels: Tensor::new(labels, &Device::Cpu)?,
        steps: WARM_UP + rounds + 8,
        processes,
    };
    trainer.run(&data, &mut Clock { ends: Vec::new(), stop_after: WARM_UP })?;
    let before = trainer.exchange_times().cloned().unwrap_or_default();
    // What lies between two steps' ends is a step.
    let mut clock = Clock { ends: Vec::new(), stop_after: rounds + 1 };
    trainer.run(&data, &mut clock)?;
    let exchange = trainer.exchange_times().cloned().unwrap_or_default();
    let counted = (exchange.steps - before.steps).max(1);
    let per_step = |time: Duration| 1e3 * time.as_secs_f64() / counted as f64;
    let times = clock.ends.windows(2).map(|pair| 1e3 * (pair[1] - pair[0]).as_secs_f64());
    Ok(Steps {
        times: times.collect(),
        busy: per_step(exchange.busy - before.busy),
        waited: per_step(exchange.waited - before.waited),
        exchange,
    })
}

struct Report<'a> {
    target: &'a Target,
    batch: usize,
    processes: usize,
    bytes: usize,
    together: Steps,
    alone: Steps,
    sums: Vec<sums::Way>,
    config: DistributedConfig,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { target, batch, processes, together, alone, sums, config, .. } = self;
        let (size, threads) = (target.size, target.threads);
        writeln!(
            f,
            "{}, {size}×{size}, {processes} processes with {threads} threads each, {}\n",
            target.name,
            resnext_ops::Isa::current().name()
        )?;
        let mut table = Table::new(&["steps of", "images", "median, ms", "p90, ms", "images/s"]);
        let part = batch / processes;
        let rows = [
            ("one process alone".to_string(), part, alone),
            (format!("{processes} together"), *batch, together),
        ];
        let mut medians = [0.0; 2];
        for ((name, images, steps), median) in rows.into_iter().zip(&mut medians) {
            *median = quantile(&steps.times, 0.5);
            table.row(vec![
                name,
                images.to_string(),
                format!("{median:.1}"),
                format!("{:.1}", quantile(&steps.times, 0.9)),
                format!("{:.1}", 1e3 * images as f64 / *median),
            ]);
        }
        f.write_str(&table.to_text())?;
        writeln!(f, "\nscaling efficiency: {:.1} %", 100.0 * medians[0] / medians[1])?;
        if *processes == 1 {
            return Ok(());
        }
        let wire = config.wire.bytes() as f64 / 4.0 * self.bytes as f64 / 1e6;
        let Steps { busy, waited, exchange, .. } = together;
        writeln!(
            f,
            "sums in a step: {wire:.1} MB of gradients in {}, {busy:.1} ms, of which the step waits {waited:.1} ms: \
             {:.0} % hidden",
            config.wire,
            100.0 * (1.0 - waited / busy.max(1e-9)).max(0.0)
        )?;
        writeln!(
            f,
            "\nsums alone, all at once, without training; a process reads memory with {:.2} GB/s:\n{}",
            resnext_ops::read_bandwidth() / 1e9,
            sums::table(sums, *processes).to_text()
        )?;
        writeln!(
            f,
            "the sums of the last step, in ms since the first one was ready:\n{}",
            timeline::table(exchange).to_text()
        )?;
        f.write_str(&timeline::draw(exchange))
    }
}
