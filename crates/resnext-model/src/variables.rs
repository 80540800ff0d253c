//! The named variables of a network that is trained.

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Named variables, created when a network first requests them.
///
/// The initial value of a variable depends on nothing but the seed and its name, so a network is the same in
/// whatever order it is built.
#[derive(Clone, Debug)]
pub struct Variables {
    seed: u64,
    dtype: DType,
    device: Device,
    map: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl Variables {
    /// An empty set, for variables of `dtype` on `device`. Requesting a variable fails if `dtype` is not a
    /// floating type.
    pub fn new(seed: u64, dtype: DType, device: &Device) -> Self {
        Variables { seed, dtype, device: device.clone(), map: Arc::default() }
    }

    /// The device of the variables.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A builder for a network: it creates the variables in this set that are not there yet.
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.dtype, self.device.clone())
    }

    /// All variables, sorted by name, running statistics included.
    pub fn all(&self) -> Vec<(String, Var)> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// The variables that an optimizer changes, sorted by name: all but the running statistics of batch
    /// norms.
    pub fn trainable(&self) -> Vec<(String, Var)> {
        let running = |name: &str| name.ends_with("running_mean") || name.ends_with("running_var");
        self.all().into_iter().filter(|(name, _)| !running(name)).collect()
    }

    /// The number of parameters: the elements of all trainable variables.
    pub fn parameter_count(&self) -> usize {
        self.trainable().iter().map(|(_, var)| var.elem_count()).sum()
    }

    fn first_value(&self, shape: &Shape, name: &str, init: Init) -> Result<Tensor> {
        // FNV-1a rather than the standard hasher, which may change between releases of Rust.
        let hash =
            name.bytes().fold(0xcbf29ce484222325u64, |h, b| (h ^ b as u64).wrapping_mul(0x100000001b3));
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(hash);
        let (mean, spread, normal) = match init {
            Init::Const(value) => (value, 0.0, true),
            Init::Randn { mean, stdev } => (mean, stdev, true),
            Init::Uniform { lo, up } => ((lo + up) / 2.0, (up - lo) / 2.0, false),
            Init::Kaiming { dist, fan, non_linearity } => {
                let std = non_linearity.gain() / (fan.for_shape(shape).max(1) as f64).sqrt();
                match dist {
                    NormalOrUniform::Normal => (0.0, std, true),
                    NormalOrUniform::Uniform => (0.0, 3f64.sqrt() * std, false),
                }
            }
        };
        let mut draw = || -> f64 {
            if spread == 0.0 {
                return mean;
            }
            if !normal {
                return mean + spread * (2.0 * rng.random::<f64>() - 1.0);
            }
            // The Box-Muller transform.
            let (radius, angle) = ((-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt(), rng.random::<f64>());
            mean + spread * radius * (std::f64::consts::TAU * angle).cos()
        };
        let values: Vec<f64> = (0..shape.elem_count()).map(|_| draw()).collect();
        Tensor::from_vec(values, shape, &self.device)?.to_dtype(self.dtype)
    }
}

impl SimpleBackend for Variables {
    fn get(&self, shape: Shape, name: &str, init: Init, _: DType, _: &Device) -> Result<Tensor> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(var) = map.get(name) {
            if var.shape() != &shape {
                candle_core::bail!("expected shape {shape:?}, the variable has {:?}: {name}", var.shape());
            }
            return Ok(var.as_tensor().clone());
        }
        // Small initial values would all be truncated to 0, and the network would not train.
        if !self.dtype.is_float() {
            candle_core::bail!(
                "variables must be of a floating type, such as F32, got {:?}: {name}",
                self.dtype
            );
        }
        let var = Var::from_tensor(&self.first_value(&shape, name, init)?)?;
        let tensor = var.as_tensor().clone();
        map.insert(name.to_string(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        match map.get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("no variable of this name yet: {name}"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.map.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }
}
