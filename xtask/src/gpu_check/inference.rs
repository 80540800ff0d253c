//! The speed of inference on the device, ours beside PyTorch's and ONNX Runtime's.

use super::measured::Measured;
use super::network_speed::NetworkSpeed;
use super::peer::{NetworkRun, Peer};
use super::sizes::{NetworkCase, Sizes};
use super::timing::median_ms;
use crate::bench::random_weights;
use crate::inputs::noise;
use anyhow::Result;
use candle_core::{DType, Device};
use resnext_model::export::Export;
use resnext_model::{Architecture, Config, ResNext, Weights};
use resnext_ops::to_channels_last;

/// Measures every case of `sizes` in bf16 and in f32, and calls `found` with each result.
pub fn measure(
    sizes: &Sizes,
    device: &Device,
    mut peer: Option<&mut Peer>,
    mut found: impl FnMut(Measured<NetworkSpeed>) -> Result<()>,
) -> Result<()> {
    for case in sizes.inference {
        let folder = tempfile::tempdir()?;
        let architecture = Architecture::by_name(case.network)?;
        let weights = Weights::open(&random_weights(&architecture, folder.path())?)?;
        for (precision, half) in [("bf16", Some(DType::BF16)), ("f32", None)] {
            let ms = ours(case, &weights, half, sizes.passes, device)?;
            found(Measured::Speed(NetworkSpeed::new(case, "ours", precision, ms)))?;
            let Some(peer) = peer.as_deref_mut() else { continue };
            let (bf16, runs) = (half.is_some(), (sizes.passes, 3));
            peer.network(&NetworkRun { request: "infer", case, precision, bf16, runs }, &mut found)?;
        }
        if let Some(peer) = peer.as_deref_mut() {
            let (engine, onnx) = ("ONNX Runtime", folder.path().join("model.onnx"));
            std::fs::write(&onnx, Export::of(&weights, &architecture)?.onnx(case.network, DType::F32)?)?;
            let ms = peer.onnx(case, &onnx, (sizes.passes, 3));
            found(Measured::of(ms, &case.describe(engine, "f32"), |ms| {
                NetworkSpeed::new(case, engine, "f32", ms)
            }))?;
        }
    }
    Ok(())
}

/// The time of a forward pass of our network, in the type `half` or f32.
fn ours(
    case: &NetworkCase,
    weights: &Weights,
    half: Option<DType>,
    passes: usize,
    device: &Device,
) -> Result<f64> {
    let config = Config::by_name(case.network)?;
    let mut network = ResNext::new(&config, weights.builder(DType::F32, device))?;
    network.set_mixed_precision(half)?;
    let images = to_channels_last(&noise(&[case.batch, 3, case.side, case.side])?.to_device(device)?)?;
    median_ms(device, (passes, 3), || Ok(network.forward(&images, false)?))
}
