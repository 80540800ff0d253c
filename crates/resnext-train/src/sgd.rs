//! Stochastic gradient descent with momentum, as PyTorch's `torch.optim.SGD`.

use crate::{Error, Result};
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The settings of [`Sgd`]; the defaults are the paper's (section 4), with Nesterov's momentum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SgdConfig {
    /// How much of the last step's direction is kept, from 0 to below 1.
    pub momentum: f64,
    /// Whether the gradient is taken to be that after the momentum's step.
    pub nesterov: bool,
    /// Multiple of each parameter added to its gradient.
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4 }
    }
}

/// The optimizer and its momentum buffers, which start at zero.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    parameters: Vec<Parameter>,
    /// How much an average keeps at a step.
    average: Option<f64>,
    /// Steps done, which averages start by.
    steps: usize,
    /// What is averaged but not stepped: name, value, average.
    followed: Vec<(String, Var, Var)>,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    value: Var,
    momentum: Var,
    average: Option<Var>,
}

fn blend(average: &Var, value: &Var, keep: f64) -> Result<()> {
    let kept = (average.as_detached_tensor() * keep)?;
    average.set(&(kept + (value.as_detached_tensor() * (1.0 - keep))?)?)?;
    Ok(())
}

/// An average over few steps forgets quickly where it started.
fn warmed(decay: f64, steps: usize) -> f64 {
    decay.min((1 + steps) as f64 / (10 + steps) as f64)
}

impl Sgd {
    /// An optimizer of the named `parameters`.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn new(parameters: Vec<(String, Var)>, config: SgdConfig) -> Result<Self> {
        let SgdConfig { momentum, nesterov, weight_decay } = config;
        if !(0.0..1.0).contains(&momentum) {
            return Err(Error::Config(format!("momentum must be from 0 to below 1, got {momentum}")));
        }
        if nesterov && momentum == 0.0 {
            return Err(Error::Config("Nesterov's momentum needs a momentum above 0".into()));
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

    /// Also keeps an exponential moving average of every parameter, and of `others` such as running statistics. A
    /// step keeps `decay` of it, or less if it is one of the first; parameters' averages move in the step's own pass.
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

    /// Goes on from step `steps`.
    pub fn set_steps(&mut self, steps: usize) {
        self.steps = steps;
    }

    /// The averages as named variables; none without [`Self::with_average`].
    pub fn averages(&self) -> Vec<(String, Var)> {
        let named = |p: &Parameter| p.average.clone().map(|average| (p.name.clone(), average));
        let followed = self.followed.iter().map(|(name, _, average)| (name.clone(), average.clone()));
        self.parameters.iter().filter_map(named).chain(followed).collect()
    }

    /// Moves every parameter that has a gradient: with g = gradient + decay·value, the buffer becomes
    /// b = momentum·b + g, and the value moves by -lr·b, or -lr·(g + momentum·b) with Nesterov.
    ///
    /// # Errors
    /// If a gradient does not have its parameter's shape.
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
                step.run(value, buffer, gradient, average.as_ref())?;
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

    /// All parameters and averages in one launch.
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

    /// The momentum buffers as named variables, to load saved ones into.
    pub fn buffers(&self) -> Vec<(String, Var)> {
        self.parameters.iter().map(|p| (p.name.clone(), p.momentum.clone())).collect()
    }
}

/// Elements a task.
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

/// One parameter's step, in one pass over value, momentum, gradient and average.
struct Step {
    momentum: f32,
    nesterov: bool,
    decay: f32,
    lr: f32,
    keep: f32,
}

impl Step {
    fn run(
        &self,
        value: &Var,
        buffer: &Var,
        gradient: &Tensor,
        average: Option<&Var>,
    ) -> candle_core::Result<()> {
        // candle lends one tensor at a time for writing, so each is borrowed inside the last one's operation.
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

type Writer<'a> = Box<dyn FnOnce(&mut [f32]) -> candle_core::Result<()> + 'a>;

/// Lends a variable's elements for writing.
struct Borrow<'a>(std::cell::Cell<Option<Writer<'a>>>);

impl Borrow<'_> {
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
