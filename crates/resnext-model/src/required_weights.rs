//! The weights that a network requires, found by building it without any.

use crate::error::Result;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The names and shapes of the weights that `build` requests.
pub(crate) fn required_weights<T>(
    build: impl FnOnce(VarBuilder) -> Result<T>,
) -> Result<BTreeMap<String, Shape>> {
    let recorder = Recorder::default();
    build(VarBuilder::from_backend(Box::new(recorder.clone()), DType::F32, Device::Cpu))?;
    Ok(std::mem::take(&mut *recorder.0.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Records each requested name and shape, and returns a broadcast zero.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<BTreeMap<String, Shape>>>);

impl SimpleBackend for Recorder {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_string(), shape.clone());
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("a weight was requested without its shape: {name}")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
