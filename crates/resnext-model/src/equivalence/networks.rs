//! The rounding error of a whole network, through its depth and in training.

use super::distance::{distance, epsilon, largest, relative_error, worse};
use super::layers::{normals, roundings};
use super::stack::{Stack, generator, tensor};
use crate::block::Block;
use crate::config::{BlockSize, Config, Form, StemKind};
use crate::convert::{self, Tensors};
use crate::error::{Error, Result};
use crate::layer_names;
use crate::mode::Mode;
use crate::network::ResNext;
use crate::variables::Variables;
use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Tensor, Var};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use resnext_ops::{cross_entropy, value_and_gradients};
use serde::Serialize;
use std::collections::BTreeMap;

/// The distance between the forms of a network on real numbers. Errors are in machine epsilons of the largest
/// number in each tensor. What is called a bound here is the yardstick of section 4 of `docs/equivalence.md`, the sum
/// of the bounds of all layers: errors beyond it are reported as faults, but no theorem keeps them below it.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkErrors {
    /// The name of the network.
    pub network: String,
    /// The type of the computation.
    pub dtype: String,
    /// The output of each block, in training mode.
    pub depth: Vec<Depth>,
    /// The error of the training loss.
    pub loss: f64,
    /// The largest error of any gradient, in machine epsilons of the largest number in all gradients.
    pub gradient: f64,
    /// The yardstick of `loss` and `gradient`.
    pub gradient_bound: f64,
    /// The number of steps of SGD with momentum, from the converted weights.
    pub steps: usize,
    /// The largest error of any weight after those steps.
    pub stepped: f64,
    /// The yardstick of `stepped`.
    pub stepped_bound: f64,
}

/// The errors of one block's output.
#[derive(Debug, Clone, Serialize)]
pub struct Depth {
    /// The name of the block.
    pub block: String,
    /// The distance of form (a) from form (c).
    pub a: f64,
    /// The distance of form (b) from form (c).
    pub b: f64,
    /// The distance of form (c) from form (c) in f64.
    pub precision: f64,
    /// The yardstick of `a` and `b`.
    pub bound: f64,
}

impl NetworkErrors {
    /// Whether no error exceeds its yardstick.
    pub fn within_bounds(&self) -> bool {
        self.depth.iter().all(|at| at.a <= at.bound && at.b <= at.bound)
            && worse(self.loss, self.gradient) <= self.gradient_bound
            && self.stepped <= self.stepped_bound
    }
}

/// Compares the forms of a whole network in `dtype`: the output of each block, the loss, all gradients, and
/// the weights after `steps` steps of SGD from converted weights.
///
/// # Errors
/// If the configuration is invalid or an operation fails.
pub fn network_errors(
    name: &str,
    config: &Config,
    dtype: DType,
    device: &Device,
    steps: usize,
    seed: u64,
) -> Result<NetworkErrors> {
    let config = Config { form: Form::C, ..config.clone() };
    let variables = Variables::new(seed, dtype, device);
    ResNext::new(&config, variables.builder())?;
    let weights = variables.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect();
    let stack = Stack::network(name, &config);
    let depth = depth(&stack, &weights, dtype, device, seed)?;
    let weights = far_from_kinks(weights)?;

    let mut rng = generator(seed);
    let (batch, side) = training_images(&config);
    let images = tensor(normals(&mut rng, batch * 3 * side * side), (batch, 3, side, side), dtype, device)?;
    let labels = Tensor::from_iter((0..batch).map(|i| (i % config.classes) as u32), device)?;
    let train = |form: Form| train(&config, form, &weights, &images, &labels, steps);
    let expected = train(Form::C)?;
    // Before a batch norm, a gradient may consist of nothing but rounding: the unit is the largest of them all.
    let largest =
        expected.gradients.values().map(largest).try_fold(0f64, |most, v| v.map(|v| most.max(v)))?;
    let (unit, mut loss, mut gradient, mut stepped) = (epsilon(dtype)?, 0f64, 0f64, 0f64);
    for form in [Form::A, Form::B] {
        let got = train(form)?;
        loss = worse(loss, relative_error(&expected.loss, &got.loss, unit)?);
        for (name, of_c) in &expected.gradients {
            let distance = distance(of_c, &got.gradients[name])?;
            gradient = worse(gradient, distance / (unit * largest));
        }
        for (name, of_c) in &expected.stepped {
            stepped = worse(stepped, relative_error(of_c, &got.stepped[name], unit)?);
        }
    }
    let gradient_bound = forward_and_backward(&stack, dtype);
    Ok(NetworkErrors {
        network: name.into(),
        dtype: format!("{dtype:?}").to_lowercase(),
        depth,
        loss,
        gradient,
        gradient_bound,
        steps,
        stepped,
        stepped_bound: gradient_bound * steps as f64,
    })
}

/// The batch size of the maps that are compared block by block.
const BATCH: usize = 4;

/// The batch size of training, and the height and width of its images: small, but no batch norm divides by almost nothing,
/// as each channel of the last map has 16 pixels.
fn training_images(config: &Config) -> (usize, usize) {
    match config.stem {
        StemKind::ImageNet => (4, 64),
        StemKind::Cifar => (1, 16),
    }
}

/// The weights with the bias of every batch norm at 6 standard deviations. The gradient of ReLU jumps at 0,
/// so the few of millions of activations that are within a rounding error of 0 would dominate the distance of
/// the gradients. With this bias there are none. That forms agree at the kinks too is shown by
/// [`activations`](fn@super::activations).
fn far_from_kinks(weights: Tensors) -> Result<Tensors> {
    let raised = |(name, t): (String, Tensor)| {
        let bias = name.ends_with(".bias") && !layer_names::is_head(&name);
        let raised = if bias { (t.ones_like()? * 6.0)? } else { t };
        Ok((name, raised))
    };
    weights.into_iter().map(raised).collect()
}

/// The number of roundings in all layers, forward and backward.
fn forward_and_backward(stack: &Stack, dtype: DType) -> f64 {
    let (batch, side) = training_images(&stack.config);
    let pixels = batch * side.pow(2);
    let block = |(_, size): &(String, BlockSize)| {
        let backward = [size.output, 9 * size.path, size.inner(), pixels];
        let backward = backward.map(|products| roundings(products, size.cardinality, dtype));
        forward(size, dtype) + backward.iter().sum::<f64>()
    };
    stack.blocks.iter().map(block).sum()
}

/// The number of roundings in the three convolutions of a block, forward.
fn forward(size: &BlockSize, dtype: DType) -> f64 {
    roundings(size.input, 1, dtype)
        + roundings(9 * size.path, 1, dtype)
        + roundings(size.inner(), size.cardinality, dtype)
}

/// The output of each block in all forms, from the same input.
fn depth(stack: &Stack, weights: &Tensors, dtype: DType, device: &Device, seed: u64) -> Result<Vec<Depth>> {
    let shape = stack.input(BATCH)?;
    let x = tensor(normals(&mut generator(seed), shape.elem_count()), shape, dtype, device)?;
    let maps = |form: Form, dtype: DType| -> Result<Vec<Tensor>> {
        let weights = convert::network(weights, &stack.config(Form::C), form)?;
        let wide = |(name, t): (String, Tensor)| Ok((name, t.to_dtype(dtype)?));
        let weights = weights.into_iter().map(wide).collect::<Result<_>>()?;
        let blocks = stack.build(form, VarBuilder::from_tensors(weights, dtype, device))?;
        let mut x = x.to_dtype(dtype)?;
        let step = |block: &Block| {
            x = block.forward(&x, Mode::Train)?;
            Ok(x.clone())
        };
        blocks.iter().map(step).collect()
    };
    let (a, b, c) = (maps(Form::A, dtype)?, maps(Form::B, dtype)?, maps(Form::C, dtype)?);
    // Metal has no f64: there, the distance from it is left at 0.
    let truth = if device.is_metal() || dtype == DType::F64 { c.clone() } else { maps(Form::C, DType::F64)? };
    let (unit, mut bound) = (epsilon(dtype)?, 0.0);
    let at = |(i, (name, size)): (usize, &(String, BlockSize))| {
        bound += forward(size, dtype);
        Ok(Depth {
            block: name.clone(),
            a: relative_error(&c[i], &a[i], unit)?,
            b: relative_error(&c[i], &b[i], unit)?,
            precision: relative_error(&truth[i], &c[i], unit)?,
            bound,
        })
    };
    stack.blocks.iter().enumerate().map(at).collect()
}

/// Whether [`scaled_sum`] writes its result over its first operand.
fn is_updated_in_place(x: &Tensor) -> bool {
    x.device().is_cpu() && x.is_contiguous() && matches!(x.dtype(), DType::F32 | DType::F64)
}

/// `x·a + y·b`, in the place of `x` where [`is_updated_in_place`] says so: a step of SGD over tens of millions of weights
/// is otherwise mostly the allocation of memory.
fn scaled_sum(x: Tensor, a: f64, y: &Tensor, b: f64) -> Result<Tensor> {
    if !is_updated_in_place(&x) {
        return Ok(((x * a)? + (y * b)?)?);
    }
    x.inplace_op2(&y.contiguous()?, &ScaledSum(a, b))?;
    Ok(x)
}

/// The operation of [`scaled_sum`], with the roundings of candle's own.
struct ScaledSum(f64, f64);

impl InplaceOp2 for ScaledSum {
    fn name(&self) -> &'static str {
        "scaled-sum"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        of_x: &Layout,
        y: &CpuStorage,
        of_y: &Layout,
    ) -> candle_core::Result<()> {
        let (count, at_x, at_y) = (of_x.shape().elem_count(), of_x.start_offset(), of_y.start_offset());
        let &ScaledSum(a, b) = self;
        match (x, y) {
            (CpuStorage::F32(x), CpuStorage::F32(y)) => {
                let (a, b) = (a as f32, b as f32);
                let pairs = x[at_x..at_x + count].par_iter_mut().zip(&y[at_y..at_y + count]);
                pairs.with_min_len(PART).for_each(|(x, y)| *x = *x * a + *y * b);
            }
            (CpuStorage::F64(x), CpuStorage::F64(y)) => {
                let pairs = x[at_x..at_x + count].par_iter_mut().zip(&y[at_y..at_y + count]);
                pairs.with_min_len(PART).for_each(|(x, y)| *x = *x * a + *y * b);
            }
            _ => candle_core::bail!("scaled-sum: expected two tensors of f32 or of f64"),
        }
        Ok(())
    }
}

/// The fewest elements that a thread takes.
const PART: usize = 1 << 14;

/// The results of training in one form, converted to form (c).
struct Trained {
    loss: Tensor,
    gradients: Tensors,
    stepped: Tensors,
}

/// Takes `steps` steps of SGD with momentum on one batch, from form (c)'s weights.
fn train(
    config: &Config,
    form: Form,
    weights: &Tensors,
    images: &Tensor,
    labels: &Tensor,
    steps: usize,
) -> Result<Trained> {
    const LEARNING_RATE: f64 = 0.001;
    const MOMENTUM: f64 = 0.9;
    let of_form = Config { form, ..config.clone() };
    let weights = convert::network(weights, config, form)?;
    let vars: BTreeMap<String, Var> = weights
        .into_iter()
        .map(|(name, t)| Ok((name, Var::from_tensor(&t.copy()?)?)))
        .collect::<Result<_>>()?;
    let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    let network = ResNext::new(&of_form, VarBuilder::from_tensors(tensors, images.dtype(), images.device()))?;
    let loss = || -> Result<_> { Ok(cross_entropy(&network.forward(images, true)?, labels, 0.0)?) };
    let joined = |apart: &Tensors| convert::network(apart, &of_form, Form::C);

    let mut first = None;
    let mut velocity = Tensors::new();
    for _ in 0..steps.max(1) {
        let (loss, gradients) = value_and_gradients::<Error>(loss)?;
        let of = |(name, var): (&String, &Var)| Some((name.clone(), gradients.get(var)?.clone()));
        let gradients: Tensors = vars.iter().filter_map(of).collect();
        for (name, gradient) in &gradients {
            let step = match velocity.remove(name) {
                Some(velocity) => scaled_sum(velocity, MOMENTUM, gradient, 1.0)?,
                // A copy, as the gradient itself is returned.
                None => gradient.copy()?,
            };
            let var = &vars[name];
            let new = scaled_sum(var.as_detached_tensor(), 1.0, &step, -LEARNING_RATE)?;
            if !is_updated_in_place(&new) {
                var.set(&new)?;
            }
            velocity.insert(name.clone(), step);
        }
        if first.is_none() {
            first = Some((loss, joined(&gradients)?));
        }
    }
    // The variables that the optimizer changes are those with a velocity.
    let stepped = vars.iter().filter(|(name, _)| velocity.contains_key(*name));
    let stepped = stepped.map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
    let (loss, gradients) = first.ok_or_else(|| Error::Config("expected at least one step".into()))?;
    Ok(Trained { loss, gradients, stepped: joined(&stepped)? })
}
