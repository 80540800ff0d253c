//! The speed of training steps on the device, ours beside PyTorch's, and the kernels that one step launches.

use super::gpu::{self, Launches};
use super::measured::Measured;
use super::network_speed::NetworkSpeed;
use super::peer::{NetworkRun, Peer};
use super::sizes::{NetworkCase, SEED, Sizes};
use super::timing::median_ms;
use crate::inputs::noise;
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use resnext_model::{Config, ResNext, Variables};
use resnext_ops::to_channels_last;
use resnext_train::{Sgd, SgdConfig, forward_backward};

/// A network in training, on the same batch in each step.
struct Training {
    network: ResNext,
    optimizer: Sgd,
    images: Tensor,
    labels: Tensor,
}

impl Training {
    /// `half`: the 16-bit type of mixed precision; f32 without it.
    fn new(case: &NetworkCase, half: Option<DType>, device: &Device) -> Result<Self> {
        let &NetworkCase { network, batch, side } = case;
        let config = Config::by_name(network)?;
        let variables = Variables::new(SEED, DType::F32, device);
        let mut network = ResNext::new(&config, variables.builder())?;
        network.set_mixed_precision(half)?;
        let optimizer = Sgd::new(variables.trainable(), SgdConfig { nesterov: false, ..Default::default() })?;
        let images = to_channels_last(&noise(&[batch, 3, side, side])?.to_device(device)?)?;
        let labels: Vec<u32> = (0..batch).map(|i| (i % config.classes) as u32).collect();
        Ok(Training { network, optimizer, images, labels: Tensor::from_vec(labels, batch, device)? })
    }

    /// Trains one step and returns its loss, which the device may still be computing.
    fn step(&mut self) -> Result<Tensor> {
        let step = forward_backward(&self.network, &self.images, &self.labels, 0.0)?;
        self.optimizer.step(1e-4, |var| step.gradients.get(var))?;
        Ok(step.loss)
    }
}

/// Measures steps in bf16 mixed precision and in f32, and calls `found` with each result.
pub fn measure(
    sizes: &Sizes,
    device: &Device,
    mut peer: Option<&mut Peer>,
    mut found: impl FnMut(Measured<NetworkSpeed>) -> Result<()>,
) -> Result<()> {
    for case in sizes.training {
        for (precision, half) in [("bf16 AMP", Some(DType::BF16)), ("f32", None)] {
            let mut training = Training::new(case, half, device)?;
            let mut last = None;
            let ms = median_ms(device, (sizes.steps, 3), || {
                last = Some(training.step()?);
                Ok(())
            })?;
            let loss = last.map(|loss| loss.to_scalar::<f32>()).transpose()?.unwrap_or(f32::NAN);
            ensure!(loss.is_finite(), "{} in {precision}: the loss is {loss} after some steps", case.network);
            // Frees the device's memory for the peer.
            drop(training);
            found(Measured::Speed(NetworkSpeed::new(case, "ours", precision, ms)))?;
            let Some(peer) = peer.as_deref_mut() else { continue };
            let (bf16, runs) = (half.is_some(), (sizes.steps, 3));
            peer.network(&NetworkRun { request: "train", case, precision, bf16, runs }, &mut found)?;
        }
    }
    Ok(())
}

/// Counts what one step of the first network launches in bf16 mixed precision; `None` where the device cannot be observed.
pub fn launches(sizes: &Sizes, device: &Device) -> Result<Option<Vec<Launches>>> {
    let Some(case) = sizes.training.first() else { return Ok(None) };
    let mut training = Training::new(case, Some(DType::BF16), device)?;
    training.step()?;
    let (done, list) = gpu::launches(device, || training.step());
    done?;
    Ok(list)
}
