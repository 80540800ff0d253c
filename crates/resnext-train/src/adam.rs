//! AdamW and LAMB: optimizers that divide a running mean of the gradients by the root of a running mean of
//! their squares.

use crate::average::Average;
use crate::clip::{Clip, norm};
use crate::elements::{elements, elements_mut};
use crate::error::{Error, Result};
use crate::parameter_group::{ParameterGroup, check_decay};
use crate::sgd::check_shape;
use candle_core::{DType, Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The settings of AdamW (Loshchilov and Hutter, arXiv 1711.05101), with the formulas and defaults of PyTorch's
/// `torch.optim.AdamW`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// The decay rates of the running means of gradients and of their squares, each from 0 to below 1.
    pub betas: [f64; 2],
    /// Added to the root of the mean of squares; above 0.
    pub eps: f64,
    /// The fraction of each parameter, times the learning rate, that a step takes off.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 }
    }
}

/// The settings of LAMB (You et al., arXiv 1904.00962), with the formulas and defaults of timm's `Lamb`: the
/// update of each tensor is scaled to the norm of the tensor itself, where the weight decays.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LambConfig {
    /// The decay rates of the running means of gradients and of their squares, each from 0 to below 1.
    pub betas: [f64; 2],
    /// Added to the root of the mean of squares; above 0.
    pub eps: f64,
    /// The multiple of each parameter that is added to its update.
    pub weight_decay: f64,
    /// Gradients whose norm together is larger are scaled down to it; above 0.
    pub max_grad_norm: f64,
}

impl Default for LambConfig {
    fn default() -> Self {
        LambConfig { betas: [0.9, 0.999], eps: 1e-6, weight_decay: 0.01, max_grad_norm: 1.0 }
    }
}

/// Which formula a step follows.
#[derive(Debug, Clone, Copy)]
enum Rule {
    AdamW,
    Lamb { max_grad_norm: f64 },
}

/// AdamW or LAMB with its running means, which start at zero.
#[derive(Debug)]
pub struct Adam {
    rule: Rule,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    parameters: Vec<Parameter>,
    average: Option<Average>,
    /// Completed steps, which the correction of the means' bias depends on.
    steps: usize,
    /// Steps that were complete when the average began.
    average_from: usize,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    value: Var,
    mean: Var,
    square: Var,
    group: ParameterGroup,
}

impl Adam {
    /// AdamW for the named `parameters`.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn adamw(parameters: Vec<(String, Var)>, config: AdamWConfig) -> Result<Self> {
        let AdamWConfig { betas, eps, weight_decay } = config;
        Self::new(Rule::AdamW, parameters, betas, eps, weight_decay)
    }

    /// LAMB for the named `parameters`.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn lamb(parameters: Vec<(String, Var)>, config: LambConfig) -> Result<Self> {
        let LambConfig { betas, eps, weight_decay, max_grad_norm } = config;
        Clip::Norm(max_grad_norm).validate()?;
        Self::new(Rule::Lamb { max_grad_norm }, parameters, betas, eps, weight_decay)
    }

    fn new(
        rule: Rule,
        parameters: Vec<(String, Var)>,
        betas: [f64; 2],
        eps: f64,
        weight_decay: f64,
    ) -> Result<Self> {
        if let Some(beta) = betas.into_iter().find(|beta| !(0.0..1.0).contains(beta)) {
            return Err(Error::Config(format!("betas must be from 0 to below 1, got {beta}")));
        }
        if !(eps > 0.0 && eps.is_finite()) {
            return Err(Error::Config(format!("eps must be above 0, got {eps}")));
        }
        check_decay(weight_decay)?;
        let parameter = |(name, value): (String, Var)| {
            let zeros = || Var::from_tensor(&value.zeros_like()?);
            let (mean, square) = (zeros()?, zeros()?);
            Ok(Parameter { name, value, mean, square, group: ParameterGroup::default() })
        };
        let parameters = parameters.into_iter().map(parameter).collect::<Result<_>>()?;
        Ok(Adam { rule, betas, eps, weight_decay, parameters, average: None, steps: 0, average_from: 0 })
    }

    /// Also keeps an exponential moving average of every parameter and of `others`, as
    /// [`Sgd::with_average`](crate::Sgd::with_average).
    ///
    /// # Errors
    /// If `decay` is not from 0 to below 1.
    pub fn with_average(mut self, decay: f64, others: Vec<(String, Var)>) -> Result<Self> {
        let own = self.parameters.iter().map(|p| (p.name.clone(), p.value.clone()));
        self.average = Some(Average::new(decay, own.chain(others).collect())?);
        Ok(self)
    }

    /// Gives every parameter the group that `group` returns for its name and shape.
    pub fn with_groups(mut self, group: impl Fn(&str, &[usize]) -> ParameterGroup) -> Self {
        for parameter in &mut self.parameters {
            parameter.group = group(&parameter.name, parameter.value.dims());
        }
        self
    }

    /// Sets the number of completed steps and how many were complete when the average began, when a run is
    /// resumed.
    pub fn set_steps(&mut self, steps: usize, average_from: usize) {
        (self.steps, self.average_from) = (steps, average_from);
    }

    /// The averages as named variables; empty without [`Self::with_average`].
    pub fn averages(&self) -> Vec<(String, Var)> {
        self.average.as_ref().map(Average::variables).unwrap_or_default()
    }

    /// The running means of gradients as named variables.
    pub fn means(&self) -> Vec<(String, Var)> {
        self.parameters.iter().map(|p| (p.name.clone(), p.mean.clone())).collect()
    }

    /// The running means of squared gradients as named variables.
    pub fn squares(&self) -> Vec<(String, Var)> {
        self.parameters.iter().map(|p| (p.name.clone(), p.square.clone())).collect()
    }

    /// Updates every parameter for which `gradient` returns a gradient g. With m and v the running means of g
    /// and g², corrected for their start at zero, the update is u = m / (√v + eps). AdamW multiplies the value
    /// by 1 - lr·weight_decay and subtracts lr·u. LAMB adds weight_decay·value to u and subtracts lr·r·u,
    /// where r is the norm of the value divided by that of u.
    ///
    /// # Errors
    /// If a gradient's shape differs from its parameter's.
    pub fn step<'a>(&mut self, lr: f64, gradient: impl Fn(&Var) -> Option<&'a Tensor>) -> Result<()> {
        self.steps += 1;
        let scale = match self.rule {
            Rule::AdamW => 1.0,
            Rule::Lamb { max_grad_norm } => {
                let all = self.parameters.iter().filter_map(|p| gradient(&p.value));
                1.0 / (norm(all)? / max_grad_norm).max(1.0)
            }
        };
        for parameter in &self.parameters {
            let Some(gradient) = gradient(&parameter.value) else { continue };
            check_shape(&parameter.name, &parameter.value, gradient)?;
            let scaled;
            let gradient = if scale == 1.0 {
                gradient
            } else {
                scaled = (gradient * scale)?;
                &scaled
            };
            let update = self.update(parameter, gradient)?;
            self.apply(parameter, update, lr * parameter.group.rate)?;
        }
        match &self.average {
            Some(average) => average.update(self.steps - self.average_from),
            None => Ok(()),
        }
    }

    /// Moves the running means and returns the update m / (√v + eps).
    fn update(&self, parameter: &Parameter, gradient: &Tensor) -> Result<Tensor> {
        let [beta1, beta2] = self.betas;
        let correction = |beta: f64| 1.0 - beta.powi(self.steps as i32);
        let (correction1, correction2) = (correction(beta1), correction(beta2).sqrt());
        let Parameter { value, mean, square, .. } = parameter;
        if value.device().is_cpu() && value.dtype() == DType::F32 && gradient.is_contiguous() {
            let pass = Pass {
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                correction1: correction1 as f32,
                correction2: correction2 as f32,
                eps: self.eps as f32,
            };
            return Ok(pass.update(mean, square, gradient)?);
        }
        let (old, old_square) = (mean.as_detached_tensor(), square.as_detached_tensor());
        let m = ((old * beta1)? + (gradient * (1.0 - beta1))?)?;
        let v = ((old_square * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
        mean.set(&m)?;
        square.set(&v)?;
        let root = ((v.sqrt()? / correction2)? + self.eps)?;
        Ok(((m / correction1)? / root)?)
    }

    /// Changes the value by its update at learning rate `lr`.
    fn apply(&self, parameter: &Parameter, update: Tensor, lr: f64) -> Result<()> {
        let value = parameter.value.as_detached_tensor();
        let decay = if parameter.group.decay { self.weight_decay } else { 0.0 };
        let new = match self.rule {
            Rule::AdamW => ((value * (1.0 - lr * decay))? - (update * lr)?)?,
            // Norms and biases, whose weight does not decay, are not scaled to their norm either.
            Rule::Lamb { .. } if decay == 0.0 => (value - (update * lr)?)?,
            Rule::Lamb { .. } => {
                let update = (update + (&value * decay)?)?;
                let of = |t: &Tensor| norm(std::iter::once(t));
                let (own, step) = (of(&value)?, of(&update)?);
                let trust = if own > 0.0 && step > 0.0 { own / step } else { 1.0 };
                (value - (update * (lr * trust))?)?
            }
        };
        Ok(parameter.value.set(&new)?)
    }
}

/// Elements per task of the thread pool.
const CHUNK: usize = 1 << 15;

/// The settings of one pass over a parameter's means, in f32.
struct Pass {
    beta1: f32,
    beta2: f32,
    correction1: f32,
    correction2: f32,
    eps: f32,
}

impl Pass {
    /// Moves the means of one f32 parameter on the CPU and returns its update, in one pass.
    fn update(&self, mean: &Var, square: &Var, gradient: &Tensor) -> candle_core::Result<Tensor> {
        let mut update = vec![0f32; gradient.elem_count()];
        elements_mut(mean, |mean| {
            elements_mut(square, |square| {
                elements(gradient, |gradient| {
                    let means = mean.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK));
                    let chunks = means.zip(gradient.par_chunks(CHUNK)).zip(update.par_chunks_mut(CHUNK));
                    chunks.for_each(|(((mean, square), gradient), update)| {
                        self.chunk(mean, square, gradient, update);
                    });
                    Ok(())
                })
            })
        })?;
        Tensor::from_vec(update, gradient.dims(), gradient.device())
    }

    fn chunk(&self, mean: &mut [f32], square: &mut [f32], gradient: &[f32], update: &mut [f32]) {
        let Pass { beta1, beta2, correction1, correction2, eps } = *self;
        for (((m, v), &g), u) in mean.iter_mut().zip(square).zip(gradient).zip(update) {
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * (g * g);
            *u = (*m / correction1) / (v.sqrt() / correction2 + eps);
        }
    }
}
