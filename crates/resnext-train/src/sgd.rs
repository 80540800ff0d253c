//! Stochastic gradient descent with momentum, with the formulas of PyTorch's `torch.optim.SGD`, and an
//! optional exponential moving average of the parameters.

use crate::average::{self, blend, copy, warmed};
use crate::elements::{elements, elements_mut};
use crate::error::{Error, Result};
use crate::parameter_group::{ParameterGroup, check_decay};
use candle_core::{DType, Tensor, Var};
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
    group: ParameterGroup,
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
        check_decay(weight_decay)?;
        let parameter = |(name, value): (String, Var)| {
            let momentum = Var::from_tensor(&value.zeros_like()?)?;
            Ok(Parameter { name, value, momentum, average: None, group: ParameterGroup::default() })
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
        average::check(decay)?;
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

    /// Gives every parameter the group that `group` returns for its name and shape.
    pub fn with_groups(mut self, group: impl Fn(&str, &[usize]) -> ParameterGroup) -> Self {
        for parameter in &mut self.parameters {
            parameter.group = group(&parameter.name, parameter.value.dims());
        }
        self
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
    /// by -lr·(g + momentum·b) with Nesterov momentum. Weight decay and `lr` depend on the parameter's group.
    ///
    /// # Errors
    /// If a gradient's shape differs from its parameter's.
    pub fn step<'a>(&mut self, lr: f64, gradient: impl Fn(&Var) -> Option<&'a Tensor>) -> Result<()> {
        let SgdConfig { momentum, nesterov, .. } = self.config;
        self.steps += 1;
        let keep = self.average.map_or(0.0, |decay| warmed(decay, self.steps));
        #[cfg(feature = "cuda")]
        let on_cuda =
            self.parameters.iter().all(|p| p.value.device().is_cuda() && p.value.dtype() == DType::F32);
        for Parameter { name, value, momentum: buffer, average, group } in &self.parameters {
            let Some(gradient) = gradient(value) else {
                // A frozen parameter does not move, but its average may still be on the way to it.
                if let Some(average) = average {
                    blend(average, value, keep)?;
                }
                continue;
            };
            check_shape(name, value, gradient)?;
            #[cfg(feature = "cuda")]
            if on_cuda {
                continue;
            }
            let (lr, weight_decay) = self.rates(lr, group);
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

    /// The learning rate and weight decay of a group.
    fn rates(&self, lr: f64, group: &ParameterGroup) -> (f64, f64) {
        (lr * group.rate, if group.decay { self.config.weight_decay } else { 0.0 })
    }

    /// Updates all parameters and averages, in one kernel launch per group of equal settings.
    #[cfg(feature = "cuda")]
    fn step_on_cuda<'a>(
        &self,
        lr: f64,
        keep: f64,
        gradient: impl Fn(&Var) -> Option<&'a Tensor>,
    ) -> Result<()> {
        use resnext_ops::cuda::{SgdParameter, SgdSettings, sgd_step};
        let SgdConfig { momentum, nesterov, .. } = self.config;
        let mut groups: Vec<(ParameterGroup, Vec<(&Parameter, Tensor)>)> = Vec::new();
        for parameter in &self.parameters {
            let Some(gradient) = gradient(&parameter.value) else { continue };
            let moved = (parameter, gradient.contiguous()?);
            match groups.iter_mut().find(|(group, _)| *group == parameter.group) {
                Some((_, members)) => members.push(moved),
                None => groups.push((parameter.group, vec![moved])),
            }
        }
        let mut followed = self.followed.as_slice();
        if groups.is_empty() {
            groups.push((ParameterGroup::default(), Vec::new()));
        }
        for (group, moved) in &groups {
            let stepped = moved.iter().map(|(p, gradient)| SgdParameter {
                value: &p.value,
                moved: Some((&p.momentum, gradient)),
                average: p.average.as_ref(),
            });
            let followed = std::mem::take(&mut followed).iter().map(|(_, value, average)| SgdParameter {
                value,
                moved: None,
                average: Some(average),
            });
            let all: Vec<SgdParameter> = stepped.chain(followed).collect();
            let (learning_rate, decay) = self.rates(lr, group);
            sgd_step(&all, &SgdSettings { learning_rate, momentum, nesterov, decay, keep })?;
        }
        Ok(())
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
        elements_mut(value, |value| {
            elements_mut(buffer, |buffer| {
                elements(gradient, |gradient| match average {
                    Some(average) => elements_mut(average, |average| {
                        self.pass(value, buffer, gradient, average);
                        Ok(())
                    }),
                    None => {
                        self.pass(value, buffer, gradient, &mut []);
                        Ok(())
                    }
                })
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

/// Checks that a gradient has the shape of its parameter.
pub(crate) fn check_shape(name: &str, value: &Var, gradient: &Tensor) -> Result<()> {
    if gradient.dims() == value.dims() {
        return Ok(());
    }
    let (expected, got) = (value.dims(), gradient.dims());
    Err(Error::Config(format!("gradient of {name}: expected shape {expected:?}, got {got:?}")))
}
