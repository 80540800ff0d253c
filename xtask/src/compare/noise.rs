//! Weights to measure speed with: noise by formula, made when it is asked for, so that no network is in memory twice.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

/// A builder whose weights are noise of the usual size, and whose batch norms are near the identity.
pub fn builder() -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Noise), DType::F32, Device::Cpu)
}

struct Noise;

impl SimpleBackend for Noise {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let (mean, spread) = match init {
            Init::Const(value) => (value as f32, 0.0),
            Init::Randn { mean, stdev } => (mean as f32, 3f32.sqrt() * stdev as f32),
            Init::Uniform { lo, up } => ((lo + up) as f32 / 2.0, (up - lo) as f32 / 2.0),
            Init::Kaiming { .. } => candle_core::bail!("no network here asks for Kaiming's weights: {name}"),
        };
        let mut state =
            name.bytes().fold(1u32, |state, byte| state.wrapping_mul(31).wrapping_add(byte.into())) | 1;
        let mut next = || {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            mean + spread * (state as f32 / (1u32 << 31) as f32 - 1.0)
        };
        let values: Vec<f32> = (0..shape.elem_count()).map(|_| next()).collect();
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("a weight was requested without its shape: {name}")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
