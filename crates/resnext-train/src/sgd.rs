//! Stochastic gradient descent with momentum, with the formulas of PyTorch's `torch.optim.SGD`, and an
//! optional exponential moving average of the parameters.

use crate::error::{Error, Result};
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The settings of [`Sgd`]. The defaults are the paper's for CIFAR (section 5.3), with Nesterov momentum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SgdConfig {
    /// The momentum coefficient, from 0 to below 1.
    pub momentum: f64,
    /// Whether to use Nesterov momentum; needs a momentum above 0.
    pub nesterov: bool,
    /// The multiple of each parameter that is added to its gradient (L2 regularisation).
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4 }
    }
}

/// The optimizer with its momentum buffers, which start at zero.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    parameters: Vec<Parameter>,
    /// The decay of the averages: the fraction of an average that a step keeps.
    average: Option<f64>,
    /// Completed steps, which the decay's warm-up depends on.
    steps: usize,
    /// Variables that are averaged but not trained: name, value, average.
    followed: Vec<(String, Var, Var)>,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    value: Var,
    momentum: Var,
    average: Option<Var>,
}

/// Moves `average` towards `value`: keep·average + (1 - keep)·value.
fn blend(average: &Var, value: &Var, keep: f64) -> Result<()> {
    let kept = (average.as_detached_tensor() * keep)?;
    average.set(&(kept + (value.as_detached_tensor() * (1.0 - keep))?)?)?;
    Ok(())
}

/// The decay after `steps` steps: smaller in the first ones, so that the average soon forgets its initial
/// value.
fn warmed(decay: f64, steps: usize) -> f64 {
    decay.min((1 + steps) as f64 / (10 + steps) as f64)
}

impl Sgd {
    /// Creates an optimizer for the named `parameters`.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn new(parameters: Vec<(String, Var)>, config: SgdConfig) -> Result<Self> {
        let SgdConfig { momentum, nesterov, weight_decay } = config;
        if !(0.0..1.0).contains(&momentum) {
            return Err(Error::Config(format!("momentum must be from 0 to below 1, got {momentum}")));
        }
        if nesterov && momentum == 0.0 {
            return Err(Error::Config("Nesterov momentum needs a momentum above 0".into()));
        }
        if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
            return Err(Error::Config(format!("weight decay must be at least 0, got {weight_decay}")));
        }
        let parameter = |(name, value): (String, Var)| {
            let momentum = Var::from_tensor(&value.zeros_like()?)?;
            Ok(Parameter { name, value, momentum, average: None })
        };
        let parameters = parameters.into_iter().map(parameter).collect::<Result<_>>()?;
        Ok(Sgd { config, parameters, average: None, steps: 0, followed: Vec::new() })
    }

    /// Also keeps an exponential moving average of every parameter and of `others`, such as running
    /// statistics. A step keeps the fraction `decay` of the average; the first steps keep less.
    ///
    /// # Errors
    /// If `decay` is not from 0 to below 1.
    pub fn with_average(mut self, decay: f64, others: Vec<(String, Var)>) -> Result<Self> {
        if !(0.0..1.0).contains(&decay) {
            return Err(Error::Config(format!("the average's decay must be from 0 to below 1, got {decay}")));
        }
        let copy = |value: &Var| Var::from_tensor(&value.as_detached_tensor().copy()?);
        self.average = Some(decay);
        for parameter in &mut self.parameters {
            parameter.average = Some(copy(&parameter.value)?);
        }
        for (name, value) in others {
            let average = copy(&value)?;
            self.followed.push((name, value, average));
        }
        Ok(self)
    }

    /// Sets the number of completed steps, when a run is resumed.
    pub fn set_steps(&mut self, steps: usize) {
        self.steps = steps;
    }

    /// The averages as named variables; empty without [`Self::with_average`].
    pub fn averages(&self) -> Vec<(String, Var)> {
        let named = |p: &Parameter| p.average.clone().map(|average| (p.name.clone(), average));
        let followed = self.followed.iter().map(|(name, _, average)| (name.clone(), average.clone()));
        self.parameters.iter().filter_map(named).chain(followed).collect()
    }

    /// Updates every parameter for which `gradient` returns a gradient. With g = gradient +
    /// weight_decay·value, the momentum buffer b becomes momentum·b + g, and the value changes by -lr·b, or
    /// by -lr·(g + momentum·b) with Nesterov momentum.
    ///
    /// # Errors
    /// If a gradient's shape differs from its parameter's.
    pub fn step<'a>(&mut self, lr: f64, gradient: impl Fn(&Var) -> Option<&'a Tensor>) -> Result<()> {
        let SgdConfig { momentum, nesterov, weight_decay } = self.config;
        self.steps += 1;
        let keep = self.average.map_or(0.0, |decay| warmed(decay, self.steps));
        #[cfg(feature = "cuda")]
        let on_cuda =
            self.parameters.iter().all(|p| p.value.device().is_cuda() && p.value.dtype() == DType::F32);
        for Parameter { name, value, momentum: buffer, average } in &self.parameters {
            let Some(gradient) = gradient(value) else { continue };
            if gradient.dims() != value.dims() {
                let message = format!(
                    "gradient of {name}: expected shape {:?}, got {:?}",
                    value.dims(),
                    gradient.dims()
                );
                return Err(Error::Config(message));
            }
            #[cfg(feature = "cuda")]
            if on_cuda {
                continue;
            }
            let on_cpu = value.device().is_cpu() && value.dtype() == DType::F32;
            if on_cpu && gradient.is_contiguous() && average.as_ref().is_none_or(|a| a.dtype() == DType::F32)
            {
                let step = Step {
                    momentum: momentum as f32,
                    nesterov,
                    decay: weight_decay as f32,
                    lr: lr as f32,
                    keep: keep as f32,
                };
                step.update(value, buffer, gradient, average.as_ref())?;
                continue;
            }
            let value_now = value.as_detached_tensor();
            let g = (gradient + (&value_now * weight_decay)?)?;
            let b = ((buffer.as_detached_tensor() * momentum)? + &g)?;
            let direction = if nesterov { (g + (&b * momentum)?)? } else { b.clone() };
            buffer.set(&b)?;
            value.set(&(value_now - (direction * lr)?)?)?;
            if let Some(average) = average {
                blend(average, value, keep)?;
            }
        }
        #[cfg(feature = "cuda")]
        if on_cuda {
            return self.step_on_cuda(lr, keep, gradient);
        }
        self.followed.iter().try_for_each(|(_, value, average)| blend(average, value, keep))
    }

    /// Updates all parameters and averages in one kernel launch.
    #[cfg(feature = "cuda")]
    fn step_on_cuda<'a>(
        &self,
        lr: f64,
        keep: f64,
        gradient: impl Fn(&Var) -> Option<&'a Tensor>,
    ) -> Result<()> {
        use resnext_ops::cuda::{SgdParameter, SgdSettings, sgd_step};
        let SgdConfig { momentum, nesterov, weight_decay } = self.config;
        let mut moved = Vec::new();
        for parameter in &self.parameters {
            if let Some(gradient) = gradient(&parameter.value) {
                moved.push((parameter, gradient.contiguous()?));
            }
        }
        let stepped = moved.iter().map(|(p, gradient)| SgdParameter {
            value: &p.value,
            moved: Some((&p.momentum, gradient)),
            average: p.average.as_ref(),
        });
        let followed = self.followed.iter().map(|(_, value, average)| SgdParameter {
            value,
            moved: None,
            average: Some(average),
        });
        let all: Vec<SgdParameter> = stepped.chain(followed).collect();
        let settings = SgdSettings { learning_rate: lr, momentum, nesterov, decay: weight_decay, keep };
        Ok(sgd_step(&all, &settings)?)
    }

    /// The momentum buffers by parameter name.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        self.parameters.iter().map(|p| (p.name.clone(), p.momentum.as_detached_tensor())).collect()
    }

    /// The momentum buffers as named variables, for loading saved ones.
    pub fn buffers(&self) -> Vec<(String, Var)> {
        self.parameters.iter().map(|p| (p.name.clone(), p.momentum.clone())).collect()
    }
}

/// Elements per task of the thread pool.
const CHUNK: usize = 1 << 15;

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("sgd: expected a contiguous tensor, got strides {:?}", layout.stride()),
    }
}

fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&mut data[start..end]),
        _ => candle_core::bail!("sgd: expected a contiguous f32 tensor"),
    }
}

/// The settings of one step, in f32.
struct Step {
    momentum: f32,
    nesterov: bool,
    decay: f32,
    lr: f32,
    keep: f32,
}

impl Step {
    /// Updates one f32 parameter on the CPU, in one pass over value, momentum, gradient and average.
    fn update(
        &self,
        value: &Var,
        buffer: &Var,
        gradient: &Tensor,
        average: Option<&Var>,
    ) -> candle_core::Result<()> {
        // An in-place op of candle gives write access to one tensor only, so the ops for the three are
        // nested.
        Borrow::elements(value, |value| {
            Borrow::elements(buffer, |buffer| {
                let (storage, layout) = gradient.storage_and_layout();
                let candle_core::Storage::Cpu(storage) = &*storage else {
                    candle_core::bail!("sgd: expected a gradient on the CPU")
                };
                let gradient = slice(storage, layout)?;
                match average {
                    Some(average) => Borrow::elements(average, |average| {
                        self.pass(value, buffer, gradient, average);
                        Ok(())
                    }),
                    None => {
                        self.pass(value, buffer, gradient, &mut []);
                        Ok(())
                    }
                }
            })
        })
    }

    /// Updates all elements of a parameter. An empty `average` means that none is kept.
    fn pass(&self, value: &mut [f32], buffer: &mut [f32], gradient: &[f32], average: &mut [f32]) {
        let Step { momentum, nesterov, decay, lr, keep } = *self;
        let chunks =
            value.par_chunks_mut(CHUNK).zip(buffer.par_chunks_mut(CHUNK)).zip(gradient.par_chunks(CHUNK));
        let step = |((value, buffer), gradient): ((&mut [f32], &mut [f32]), &[f32])| {
            for ((value, buffer), &gradient) in value.iter_mut().zip(buffer).zip(gradient) {
                let g = gradient + decay * *value;
                *buffer = momentum * *buffer + g;
                let direction = if nesterov { g + momentum * *buffer } else { *buffer };
                *value -= lr * direction;
            }
        };
        if average.is_empty() {
            return chunks.for_each(step);
        }
        chunks.zip(average.par_chunks_mut(CHUNK)).for_each(|(((value, buffer), gradient), average)| {
            step(((&mut *value, buffer), gradient));
            for (average, &value) in average.iter_mut().zip(&*value) {
                *average = keep * *average + (1.0 - keep) * value;
            }
        });
    }
}

/// What an operation does with a variable's elements.
type Writer<'a> = Box<dyn FnOnce(&mut [f32]) -> candle_core::Result<()> + 'a>;

/// A candle in-place op that calls a closure with a variable's elements.
struct Borrow<'a>(std::cell::Cell<Option<Writer<'a>>>);

impl Borrow<'_> {
    /// Calls `write` with the elements of the f32 variable `of`.
    fn elements(
        of: &Var,
        write: impl FnOnce(&mut [f32]) -> candle_core::Result<()>,
    ) -> candle_core::Result<()> {
        let write: Writer = Box::new(write);
        of.inplace_op1(&Borrow(std::cell::Cell::new(Some(write))))
    }
}

impl InplaceOp1 for Borrow<'_> {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match self.0.take() {
            Some(write) => write(slice_mut(storage, layout)?),
            None => Ok(()),
        }
    }
}
