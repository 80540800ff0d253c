//! Several processes that train one network, as threads of this one.

use super::{Noise, close, config, model, weights};
use candle_core::Device;
use resnext_model::{Config, Form};
use resnext_train::distributed::{DistributedConfig, Processes, Wire};
use resnext_train::*;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The part of [`Noise`] that rank `rank` of `of` has.
struct Part {
    noise: Noise,
    rank: usize,
    of: usize,
}

impl Data for Part {
    fn images_per_epoch(&self) -> usize {
        self.noise.images_per_epoch()
    }
    fn batch_size(&self) -> usize {
        self.noise.batch_size()
    }
    fn image_size(&self) -> (usize, usize) {
        self.noise.image_size()
    }
    fn fingerprint(&self) -> String {
        self.noise.fingerprint()
    }
    fn train(&self, epoch: usize, skip: usize) -> Batches<'_> {
        Box::new(self.noise.train(epoch, skip).map(|batch| {
            let (images, labels) = batch?;
            let at = |rank: usize| labels.elem_count() * rank / self.of;
            let (start, len) = (at(self.rank), at(self.rank + 1) - at(self.rank));
            Ok((images.narrow(0, start, len)?.contiguous()?, labels.narrow(0, start, len)?.contiguous()?))
        }))
    }
    fn test(&self) -> Batches<'_> {
        Box::new(self.noise.test().skip(self.rank).step_by(self.of))
    }
}

/// What a process observed, and its checkpoint at the end.
struct Ran {
    outcome: Result<Outcome>,
    losses: Vec<f64>,
    epochs: Vec<(Metrics, Metrics)>,
    saved: usize,
    checkpoint: Checkpoint,
    exchanged: usize,
}

impl Observer for Ran {
    fn on_batch(&mut self, report: &BatchReport) {
        self.losses.push(report.loss);
    }
    fn on_epoch(&mut self, report: &EpochReport) -> Result<()> {
        self.epochs.push((report.train.clone(), report.test.clone()));
        Ok(())
    }
    fn save(&mut self, _: &Checkpoint, _: bool) -> Result<()> {
        self.saved += 1;
        Ok(())
    }
    fn should_stop(&self) -> bool {
        matches!(self.outcome, Ok(Outcome::Stopped)) && self.losses.len() >= 3
    }
}

/// A run by `processes` threads. `stop` is the rank that asks to stop after three batches, if any.
struct Setting<'a> {
    processes: usize,
    batch_size: usize,
    model: Config,
    train: TrainConfig,
    distributed: DistributedConfig,
    from: Option<&'a Checkpoint>,
    stop: Option<usize>,
}

impl Setting<'_> {
    fn new(processes: usize, train: TrainConfig) -> Self {
        let distributed = DistributedConfig { bucket_bytes: 20_000, ..Default::default() };
        Setting { processes, batch_size: 8, model: model(), train, distributed, from: None, stop: None }
    }

    fn synchronised(mut self) -> Self {
        self.distributed.sync_norms = true;
        self
    }

    fn one(&self, processes: Processes) -> Ran {
        let rank = processes.rank();
        let mut trainer =
            Trainer::new(&self.model, self.train.clone(), serde_json::json!({}), &Device::Cpu).unwrap();
        if let Some(checkpoint) = self.from {
            trainer.restore(checkpoint, Path::new("checkpoint")).unwrap();
        }
        trainer.distribute(Arc::new(processes), &self.distributed).unwrap();
        let outcome = if self.stop == Some(rank) { Outcome::Stopped } else { Outcome::Finished };
        let mut ran = Ran {
            outcome: Ok(outcome),
            losses: vec![],
            epochs: vec![],
            saved: 0,
            checkpoint: trainer.checkpoint(),
            exchanged: 0,
        };
        let data = Part { noise: Noise(self.batch_size), rank, of: self.processes };
        ran.outcome = trainer.run(&data, &mut ran);
        ran.checkpoint = trainer.checkpoint();
        ran.exchanged = trainer.exchange_times().map_or(0, |times| times.bytes);
        ran
    }

    /// What each rank observed.
    fn run(&self) -> Vec<Ran> {
        if self.processes == 1 {
            return vec![self.one(Processes::single())];
        }
        // A thread that waits for another must not hold the only thread of a pool that the other needs.
        let pool = || rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        std::thread::scope(|scope| {
            let all = Processes::in_threads(self.processes, Duration::from_secs(60)).unwrap();
            let start = |own| scope.spawn(move || pool().install(|| self.one(own)));
            let threads: Vec<_> = all.into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }
}

/// Ranks hold the same bits and report the same numbers, and only rank 0 saves.
fn agree(ranks: &[Ran]) {
    for (rank, ran) in ranks.iter().enumerate() {
        assert_eq!(ran.outcome.as_ref().unwrap(), ranks[0].outcome.as_ref().unwrap());
        assert_eq!((&ran.losses, &ran.epochs), (&ranks[0].losses, &ranks[0].epochs), "rank {rank}");
        assert!(weights(&ran.checkpoint) == weights(&ranks[0].checkpoint), "rank {rank}");
        assert_eq!(ran.checkpoint.progress, ranks[0].checkpoint.progress, "rank {rank}");
        assert_eq!(ran.saved > 0, rank == 0, "rank {rank}");
    }
}

fn slow(accumulate: usize) -> TrainConfig {
    TrainConfig { lr: 0.002, ..config(accumulate) }
}

/// Thirty images in batches of eight, the last one of six, so that three processes have parts of different sizes: with
/// batch norm over the whole batch, losses, weights and running statistics are those of one process within rounding,
/// in fused blocks and in single operations, with accumulation, clipping and class weights.
#[test]
fn processes_with_synchronised_norms_train_as_one_does() {
    let class_weights = vec![1.0, 0.5, 2.0, 1.5];
    for (processes, form, train) in [
        (2, Form::C, slow(1)),
        (3, Form::C, TrainConfig { clip: Some(Clip::Norm(0.5)), ..slow(2) }),
        (3, Form::B, TrainConfig { class_weights, ..slow(1) }),
    ] {
        let of = |processes| {
            let setting = Setting::new(processes, train.clone()).synchronised();
            Setting { model: Config { form, ..model() }, ..setting }.run()
        };
        let (one, many) = (of(1), of(processes));
        agree(&many);
        let what = format!("{processes} processes, form {form}");
        close(&many[0].losses, &one[0].losses, 2e-5, &what);
        let flat = |ran: &Ran| -> Vec<f64> {
            let Checkpoint { tensors, average, .. } = &ran.checkpoint;
            tensors.values().chain(average.values()).flat_map(super::flat).collect()
        };
        close(&flat(&many[0]), &flat(&one[0]), 1e-4, &what);
        assert_eq!(many[0].epochs[1].0.count, 30);
        assert!(many[0].exchanged > 0 && one[0].exchanged == 0);
    }
}

/// Batch norm by the process's own part gives other losses, but the same kind of run. Where batch norms are frozen they
/// are those of one process; and where the weights do not move, the evaluation is the same to the last bit.
#[test]
fn norms_are_local_and_evaluations_are_exact() {
    let of = |processes, train: &TrainConfig| Setting::new(processes, train.clone()).run();
    let local = of(2, &slow(1));
    agree(&local);
    let synchronised = Setting::new(2, slow(1)).synchronised().run();
    let distance = local[0].losses.iter().zip(&synchronised[0].losses).map(|(a, b)| (a - b).abs());
    assert!(distance.clone().fold(0.0, f64::max) > 1e-3);
    let frozen = TrainConfig { freeze_norms: true, ..slow(1) };
    let one = of(1, &frozen);
    for processes in [2, 4] {
        let many = of(processes, &frozen);
        agree(&many);
        close(&many[0].losses, &one[0].losses, 2e-5, &format!("{processes} processes, frozen norms"));
    }
    let still = TrainConfig { lr: 1e-30, ..frozen };
    let (one, three) = (of(1, &still), of(3, &still));
    assert_eq!(one[0].epochs[0].1, three[2].epochs[0].1);
}

/// A run repeats bit for bit with the same number of processes, whatever the buckets and wherever it was interrupted;
/// and it goes on with another number from the same checkpoint.
#[test]
fn a_run_of_several_processes_repeats_and_resumes_with_any_number() {
    let whole = Setting::new(2, config(2)).synchronised().run();
    agree(&whole);
    let mut other_buckets = Setting::new(2, config(2)).synchronised();
    other_buckets.distributed.bucket_bytes = 1 << 24;
    assert!(weights(&other_buckets.run()[1].checkpoint) == weights(&whole[1].checkpoint));
    // The rank that asks is not the one that saves.
    let stopped = Setting { stop: Some(1), ..Setting::new(2, config(2)).synchronised() }.run();
    agree(&stopped);
    assert_eq!(*stopped[0].outcome.as_ref().unwrap(), Outcome::Stopped);
    for processes in [2, 3, 1] {
        let again = Setting::new(processes, config(2)).synchronised();
        let resumed = Setting { from: Some(&stopped[0].checkpoint), ..again }.run();
        agree(&resumed);
        let behind = &whole[0].losses[stopped[0].losses.len()..];
        match processes {
            2 => assert!(weights(&resumed[0].checkpoint) == weights(&whole[0].checkpoint)),
            _ => close(&resumed[0].losses, behind, 1e-2, &format!("resumed by {processes}")),
        }
    }
}

#[test]
fn gradients_in_bf16_are_the_same_in_all_processes() {
    let setting = |wire| {
        let mut setting = Setting::new(3, slow(1)).synchronised();
        setting.distributed.wire = wire;
        setting.run()
    };
    let (wide, narrow) = (setting(Wire::F32), setting(Wire::Bf16));
    agree(&narrow);
    assert_ne!(narrow[0].losses, wide[0].losses);
    close(&narrow[0].losses, &wide[0].losses, 1e-2, "gradients in bf16");
    assert_eq!(2 * narrow[0].exchanged, wide[0].exchanged);
}

/// Sums by element in the order of ranks, whatever the length; bytes of any lengths, by rank.
#[test]
fn sums_are_in_the_order_of_ranks() {
    for (size, len) in [(2, 5), (3, 1), (4, 1030), (4, 5001)] {
        let all = Processes::in_threads(size, Duration::from_secs(60)).unwrap();
        let value = |rank: usize, i: usize| (1.0 + i as f64).powi(rank as i32 * 3 - 2) / 3.0;
        std::thread::scope(|scope| {
            for own in all {
                scope.spawn(move || {
                    let rank = own.rank();
                    let mut wide: Vec<f64> = (0..len).map(|i| value(rank, i)).collect();
                    let narrow: Vec<f32> = wide.iter().map(|&value| value as f32).collect();
                    let pending = own.sum(narrow, Wire::F32);
                    own.sum_f64(&mut wide, "testing").unwrap();
                    let narrow = pending.wait().unwrap().0;
                    for i in 0..len {
                        assert_eq!(wide[i], (1..size).fold(value(0, i), |sum, rank| sum + value(rank, i)));
                        let first = value(0, i) as f32;
                        assert_eq!(narrow[i], (1..size).fold(first, |sum, rank| sum + value(rank, i) as f32));
                    }
                    let gathered = own.gather(&vec![7; rank], "testing").unwrap();
                    assert_eq!(gathered, (0..size).map(|rank| vec![7; rank]).collect::<Vec<_>>());
                    assert!(own.any(rank == size - 1).unwrap() && !own.any(false).unwrap());
                });
            }
        });
    }
}

/// Every process learns the same line about one that differs; one that does not answer is named by those that wait.
#[test]
fn processes_that_differ_or_hang_end_all() {
    let differ = |settings: [TrainConfig; 2]| -> Vec<String> {
        std::thread::scope(|scope| {
            let all = Processes::in_threads(2, Duration::from_secs(60)).unwrap();
            let start = |(own, train): (Processes, TrainConfig)| {
                scope.spawn(move || Setting::new(2, train).one(own).outcome.unwrap_err())
            };
            let threads: Vec<_> = all.into_iter().zip(settings).map(start).collect();
            threads
                .into_iter()
                .map(|thread| {
                    let error = thread.join().unwrap();
                    assert!(error.is_shared());
                    error.to_string()
                })
                .collect()
        })
    };
    let other = differ([slow(1), TrainConfig { lr: 0.003, ..slow(1) }]);
    assert!(other[0].starts_with("rank 1 has another recipe than rank 0: `…"), "{}", other[0]);
    assert!(other[0].contains("lr: 0.003") && other[0].contains("lr: 0.002"), "{}", other[0]);
    assert_eq!(other[0], other[1]);

    let mut pair = Processes::in_threads(2, Duration::from_millis(100)).unwrap();
    let hangs = pair.pop();
    let error = pair[0].gather(b"here", "comparing processes").unwrap_err().to_string();
    assert_eq!(error, "rank 0 waited 0.1 s for rank 1 while comparing processes");
    drop(hangs);
}

/// Batches that some processes would have no part of, and data that is not a part, are refused.
#[test]
fn batches_are_shared_by_all() {
    let few = Setting { batch_size: 28, ..Setting::new(3, slow(1)) }.run();
    let error = few[1].outcome.as_ref().unwrap_err().to_string();
    assert!(error.starts_with("3 processes cannot share a batch of 2 of 30 images"), "{error}");
    let whole = |own| {
        let mut trainer = Trainer::new(model(), slow(1), serde_json::json!({}), &Device::Cpu).unwrap();
        trainer.distribute(Arc::new(own), &DistributedConfig::default()).unwrap();
        let mut ran = Setting::new(1, slow(1)).one(Processes::single());
        trainer.run(&Noise(8), &mut ran).unwrap_err().to_string()
    };
    let pool = || rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let errors: Vec<String> = std::thread::scope(|scope| {
        let all = Processes::in_threads(2, Duration::from_secs(60)).unwrap();
        let threads: Vec<_> =
            all.into_iter().map(|own| scope.spawn(move || pool().install(|| whole(own)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(errors[0], "the processes have 16 images of a batch of 8: each must have its own part of it");
    assert_eq!(errors[0], errors[1]);
}

/// Two processes with class weights, which give their parts of a batch different weights in the loss, and steps of two
/// batches: running statistics count each image once, so that the mean of the first batch norm, whose input does not
/// depend on any other, is that of one process.
#[test]
fn running_statistics_count_images_and_not_their_weights() {
    let train = TrainConfig { class_weights: vec![1.0, 0.1, 5.0, 1.5], lr: 1e-30, ..config(2) };
    let of = |processes| Setting::new(processes, train.clone()).run();
    let (one, two) = (of(1), of(2));
    agree(&two);
    let mean = |ran: &Ran| super::flat(&ran.checkpoint.tensors["bn1.running_mean"]);
    close(&mean(&two[0]), &mean(&one[0]), 1e-6, "running mean");
}

/// Two processes whose checkpoints differ in nothing but the optimizer's state do not train together.
#[test]
fn processes_have_the_same_optimizer_state() {
    let mut saved = Setting::new(1, slow(1)).run().remove(0).checkpoint;
    saved.progress.epoch = 0;
    let mut other = saved.clone();
    let name = other.momentum.keys().next().unwrap().clone();
    let changed = (&other.momentum[&name] + 1.0).unwrap();
    other.momentum.insert(name, changed);
    let errors: Vec<String> = std::thread::scope(|scope| {
        let all = Processes::in_threads(2, Duration::from_secs(60)).unwrap();
        let start = |(own, from)| {
            scope.spawn(move || {
                Setting { from: Some(from), ..Setting::new(2, slow(1)) }.one(own).outcome.unwrap_err()
            })
        };
        let threads: Vec<_> = all.into_iter().zip([&saved, &other]).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().to_string()).collect()
    });
    assert!(
        errors[0].starts_with("rank 1 has another set of momentum (hash) than rank 0: "),
        "{}",
        errors[0]
    );
    assert_eq!(errors[0], errors[1]);
}

/// Settings that touch how gradients come about or what becomes of them: two processes agree in every bit, and with batch
/// norm over the whole batch have one process's losses, as closely as the type of the feature maps allows. Stochastic
/// depth draws for each process's part on its own.
#[test]
fn settings_of_training_are_shared() {
    let adamw = OptimizerConfig::AdamW(AdamWConfig::default());
    let lamb = OptimizerConfig::Lamb(LambConfig::default());
    let freeze = "stem,layer1".parse().unwrap();
    for (what, train, tolerance) in [
        ("bf16", TrainConfig { amp: Amp::Bf16, ..slow(1) }, 5e-2),
        ("recomputed maps", TrainConfig { grad_checkpoint: true, ..slow(2) }, 2e-5),
        ("AdamW", TrainConfig { optimizer: adamw, lr: 1e-4, ..slow(1) }, 1e-3),
        ("LAMB", TrainConfig { optimizer: lamb, lr: 1e-4, ..slow(1) }, 1e-3),
        ("frozen stages", TrainConfig { freeze, ..slow(1) }, 2e-5),
        ("stochastic depth", TrainConfig { drop_path: 0.3, ..slow(1) }, f64::INFINITY),
    ] {
        let of = |processes| Setting::new(processes, train.clone()).synchronised().run();
        let (one, two) = (of(1), of(2));
        agree(&two);
        close(&two[0].losses, &one[0].losses, tolerance, what);
    }
}
