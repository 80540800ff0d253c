//! How long an epoch of a network takes here, from a few of its steps.

use crate::loaders::Loaders;
use crate::open_data::OpenData;
use crate::prepared_run::PreparedRun;
use crate::recipe::Recipe;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use resnext_model::{AnyNetwork, Architecture, Variables};
use resnext_train::{BatchReport, Checkpoint, Data, EpochReport, Observer, evaluate};
use std::time::Instant;

/// Batches that are measured, after one that warms up.
pub const TRAINING_BATCHES: usize = 6;
const TEST_BATCHES: usize = 3;

/// Seconds for an epoch's training, and for an evaluation on all test images.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    pub training: f64,
    pub evaluation: f64,
}

/// Measures the network of a recipe on its data.
pub fn measure(recipe: &Recipe, data: OpenData, device: &Device) -> Result<Speed> {
    let PreparedRun { model, loaders, mut trainer, .. } = PreparedRun::new(recipe, data, device)?;
    let mut clock = Clock { wanted: TRAINING_BATCHES, ..Clock::default() };
    trainer.run(&loaders, &mut clock)?;
    let training = clock.seconds_per_image() * loaders.images_per_epoch() as f64;
    Ok(Speed { training, evaluation: evaluation(&model, &loaders, device)? })
}

/// Seconds for an evaluation, in the form in which the trainer evaluates.
fn evaluation(model: &Architecture, loaders: &Loaders, device: &Device) -> Result<f64> {
    let network = AnyNetwork::new(model, Variables::new(0, DType::F32, device).builder())?;
    let fused = device.is_cpu().then(|| network.fuse_to(DType::F32)).transpose()?;
    let forward = |images: &Tensor| match &fused {
        Some(fused) => fused.forward(images),
        None => network.forward(images, false),
    };
    let mut clock = Clock::default();
    let batches = Box::new(loaders.test().take(1 + TEST_BATCHES));
    evaluate(forward, batches, |images, _, _| {
        clock.tick(images);
        Ok(())
    })?;
    Ok(clock.seconds_per_image() * loaders.test_len() as f64)
}

/// The ends of batches, and the images until then.
struct Clock {
    start: Instant,
    ticks: Vec<(Instant, usize)>,
    images: usize,
    /// Batches after the first one, after which the measurement ends.
    wanted: usize,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { start: Instant::now(), ticks: Vec::new(), images: 0, wanted: 0 }
    }
}

impl Clock {
    fn tick(&mut self, images: usize) {
        self.ticks.push((Instant::now(), images));
    }

    /// Without the first batch, if there are others.
    fn seconds_per_image(&self) -> f64 {
        match &self.ticks[..] {
            [] => 0.0,
            [(end, images)] => (*end - self.start).as_secs_f64() / (*images).max(1) as f64,
            [(start, first), .., (end, last)] => (*end - *start).as_secs_f64() / (last - first).max(1) as f64,
        }
    }
}

impl Observer for Clock {
    fn on_batch(&mut self, report: &BatchReport) {
        self.images += report.examples;
        self.tick(self.images);
    }

    fn on_epoch(&mut self, _: &EpochReport) -> resnext_train::Result<()> {
        Ok(())
    }

    fn save(&mut self, _: &Checkpoint, _: bool) -> resnext_train::Result<()> {
        Ok(())
    }

    fn should_stop(&self) -> bool {
        self.ticks.len() > self.wanted
    }
}
