//! Stochastic gradient descent with momentum, as PyTorch's `torch.optim.SGD`.

use crate::{Error, Result};
use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Tensor, Var};
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
}

#[derive(Debug)]
struct Parameter {
    name: String,
    value: Var,
    momentum: Var,
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
            Ok(Parameter { name, value, momentum })
        };
        Ok(Sgd { config, parameters: parameters.into_iter().map(parameter).collect::<Result<_>>()? })
    }

    /// Moves every parameter that has a gradient: with g = gradient + decay·value, the buffer becomes
    /// b = momentum·b + g, and the value moves by -lr·b, or -lr·(g + momentum·b) with Nesterov.
    ///
    /// # Errors
    /// If a gradient does not have its parameter's shape.
    pub fn step<'a>(&mut self, lr: f64, gradient: impl Fn(&Var) -> Option<&'a Tensor>) -> Result<()> {
        let SgdConfig { momentum, nesterov, weight_decay } = self.config;
        for Parameter { name, value, momentum: buffer } in &self.parameters {
            let Some(gradient) = gradient(value) else { continue };
            if gradient.dims() != value.dims() {
                let message = format!(
                    "gradient of {name}: expected shape {:?}, got {:?}",
                    value.dims(),
                    gradient.dims()
                );
                return Err(Error::Config(message));
            }
            if value.device().is_cpu() && value.dtype() == DType::F32 && gradient.is_contiguous() {
                buffer.inplace_op3(
                    value,
                    gradient,
                    &Accumulate { momentum: momentum as f32, decay: weight_decay as f32 },
                )?;
                if nesterov {
                    // g + momentum·b, where g = b - momentum·(the old b), is had without the old b by
                    // adding the gradient and the decay anew.
                    value.inplace_op2(
                        gradient,
                        &Move { decay: (lr * weight_decay) as f32, rate: lr as f32 },
                    )?;
                    value.inplace_op2(buffer, &Move { decay: 0.0, rate: (lr * momentum) as f32 })?;
                } else {
                    value.inplace_op2(buffer, &Move { decay: 0.0, rate: lr as f32 })?;
                }
                continue;
            }
            let value_now = value.as_detached_tensor();
            let g = (gradient + (&value_now * weight_decay)?)?;
            let b = ((buffer.as_detached_tensor() * momentum)? + &g)?;
            let direction = if nesterov { (g + (&b * momentum)?)? } else { b.clone() };
            buffer.set(&b)?;
            value.set(&(value_now - (direction * lr)?)?)?;
        }
        Ok(())
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

type Slices<'a> = (&'a mut [f32], &'a [f32]);

fn slices<'a>(
    s1: &'a mut CpuStorage,
    l1: &Layout,
    s2: &'a CpuStorage,
    l2: &Layout,
) -> candle_core::Result<Slices<'a>> {
    Ok((slice_mut(s1, l1)?, slice(s2, l2)?))
}

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

/// buffer = momentum·buffer + gradient + decay·value
struct Accumulate {
    momentum: f32,
    decay: f32,
}

impl InplaceOp3 for Accumulate {
    fn name(&self) -> &'static str {
        "sgd-accumulate"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<()> {
        let (buffer, value) = slices(s1, l1, s2, l2)?;
        let gradient = slice(s3, l3)?;
        buffer.par_chunks_mut(CHUNK).zip(value.par_chunks(CHUNK)).zip(gradient.par_chunks(CHUNK)).for_each(
            |((b, v), g)| {
                for ((b, &v), &g) in b.iter_mut().zip(v).zip(g) {
                    *b = self.momentum * *b + (g + self.decay * v);
                }
            },
        );
        Ok(())
    }
}

/// value = value - decay·value - rate·direction
struct Move {
    decay: f32,
    rate: f32,
}

impl InplaceOp2 for Move {
    fn name(&self) -> &'static str {
        "sgd-move"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<()> {
        let (value, direction) = slices(s1, l1, s2, l2)?;
        value.par_chunks_mut(CHUNK).zip(direction.par_chunks(CHUNK)).for_each(|(v, d)| {
            for (v, &d) in v.iter_mut().zip(d) {
                *v -= self.decay * *v + self.rate * d;
            }
        });
        Ok(())
    }
}
