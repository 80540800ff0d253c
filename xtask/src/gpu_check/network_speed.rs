//! The speed of a network on the device.

use super::sizes::NetworkCase;
use serde::Serialize;

/// What one engine takes for one batch of a network.
#[derive(Serialize)]
pub struct NetworkSpeed {
    pub network: String,
    pub batch: usize,
    pub side: usize,
    pub engine: String,
    /// `f32`, `bf16`, or `bf16 AMP` in training.
    pub precision: String,
    /// The median time of a training step or a forward pass, in milliseconds.
    pub ms: f64,
    pub images_per_s: f64,
}

impl NetworkSpeed {
    pub fn new(case: &NetworkCase, engine: &str, precision: &str, ms: f64) -> Self {
        let &NetworkCase { network, batch, side } = case;
        let images_per_s = batch as f64 / ms * 1e3;
        let (network, engine, precision) = (network.into(), engine.into(), precision.into());
        NetworkSpeed { network, batch, side, engine, precision, ms, images_per_s }
    }
}
