//! The subject of a comparison: a chain of blocks, in each of the forms, with given weights.

use super::tally::Tally;
use crate::block::Block;
use crate::config::{BlockSize, Config, Form};
use crate::convert::{self, Tensors};
use crate::error::{Error, Result};
use crate::layer_names;
use crate::mode::Mode;
use crate::required_weights::required_weights;
use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::VarBuilder;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashSet};

/// A chain of blocks: a single one, or all blocks of a network.
#[derive(Debug, Clone)]
pub struct Stack {
    /// The name of the network, or the sizes of the block.
    pub name: String,
    pub(super) config: Config,
    /// The name of each block, for example `layer1.0`, and its sizes.
    pub(super) blocks: Vec<(String, BlockSize)>,
    /// Height and width of the input. One is odd and one even, so that a stride of 2 has both cases; they are
    /// small, because the proof does not depend on them.
    pub(super) map: (usize, usize),
}

impl Stack {
    /// All blocks of a network. Its stem and its head are the same in every form.
    pub fn network(name: &str, config: &Config) -> Self {
        let stages = config.blocks().into_iter().enumerate();
        let blocks = stages.flat_map(|(s, sizes)| {
            sizes.into_iter().enumerate().map(move |(i, size)| (layer_names::block(s, i), size))
        });
        Stack { name: name.into(), config: config.clone(), blocks: blocks.collect(), map: (9, 10) }
    }

    /// The blocks of a network as one stack each, without repetitions of the same sizes.
    pub fn distinct_blocks(config: &Config) -> Vec<Self> {
        let mut seen = HashSet::new();
        let blocks = Stack::network("", config).blocks.into_iter().filter(|(_, size)| seen.insert(*size));
        let one = |(prefix, size): (String, BlockSize)| Stack {
            name: size.to_string(),
            config: config.clone(),
            blocks: vec![(prefix, size)],
            map: (5, 6),
        };
        blocks.map(one).collect()
    }

    /// The same blocks, with an input of another height and width.
    pub fn on_map(self, map: (usize, usize)) -> Self {
        Stack { map, ..self }
    }

    /// The number of all weights, in each of the forms.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn weight_count(&self) -> Result<usize> {
        let shapes = required_weights(|builder| self.build(Form::C, builder))?;
        Ok(shapes.values().map(Shape::elem_count).sum())
    }

    /// The sizes of the first block.
    pub(super) fn first(&self) -> Result<&BlockSize> {
        let none = || Error::Config("expected at least one block".into());
        self.blocks.first().map(|(_, size)| size).ok_or_else(none)
    }

    /// The shape of an input of batch size `batch`.
    pub(super) fn input(&self, batch: usize) -> Result<Shape> {
        Ok((batch, self.first()?.input, self.map.0, self.map.1).into())
    }

    pub(super) fn config(&self, form: Form) -> Config {
        Config { form, ..self.config.clone() }
    }

    pub(super) fn build(&self, form: Form, vb: VarBuilder) -> Result<Vec<Block>> {
        let config = self.config(form);
        self.blocks.iter().map(|(prefix, size)| Block::new(size, &config, vb.pp(prefix))).collect()
    }

    /// Weights in form (c): `draw` is called with the name and the number of elements of each.
    pub(super) fn draw(
        &self,
        dtype: DType,
        device: &Device,
        mut draw: impl FnMut(&str, usize) -> Vec<f64>,
    ) -> Result<Tensors> {
        let shapes = required_weights(|builder| self.build(Form::C, builder))?;
        let tensor = |(name, shape): (String, Shape)| {
            let values = draw(&name, shape.elem_count());
            Ok((name, tensor(values, shape, dtype, device)?))
        };
        shapes.into_iter().map(tensor).collect()
    }

    /// Output and gradients of the blocks in one form, with weights of that form, input `x` and the output's
    /// gradient `g`.
    pub(super) fn evaluate(
        &self,
        form: Form,
        weights: &Tensors,
        x: &Tensor,
        g: &Tensor,
        mode: Mode,
    ) -> Result<Evaluation> {
        let vars: BTreeMap<String, Var> = weights
            .iter()
            .map(|(name, t)| Ok((name.clone(), Var::from_tensor(t)?)))
            .collect::<Result<_>>()?;
        let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let blocks = self.build(form, VarBuilder::from_tensors(tensors, x.dtype(), x.device()))?;
        let x = Var::from_tensor(x)?;
        let forward = || blocks.iter().try_fold(x.as_tensor().clone(), |x, block| block.forward(&x, mode));
        let (output, gradients) = resnext_ops::vjp::<Error>(forward, g)?;
        let of = |(name, var): (&String, &Var)| Some((name.clone(), gradients.get(var)?.clone()));
        let apart: Tensors = vars.iter().filter_map(of).collect();
        let mut all = convert::network(&apart, &self.config(form), Form::C)?;
        if let Some(gradient) = gradients.get(&x) {
            all.insert("the input".into(), gradient.clone());
        }
        Ok(Evaluation { output, gradients: all })
    }

    /// The shape of the output for an input of shape `x`.
    pub(super) fn output(&self, x: &Shape) -> Result<Shape> {
        let (n, mut c, mut h, mut w) = x.dims4()?;
        for (_, size) in &self.blocks {
            (c, h, w) = (size.output, h.div_ceil(size.stride), w.div_ceil(size.stride));
        }
        Ok((n, c, h, w).into())
    }

    /// Compares forms (a) and (b) with form (c), bit by bit: the output and every gradient. `tamper` may
    /// change the weights of a form first, and its gradients before they are compared.
    pub(super) fn compare(
        &self,
        weights: &Tensors,
        x: &Tensor,
        g: &Tensor,
        mode: Mode,
        tamper: Tamper,
    ) -> Result<Tally> {
        let evaluate = |form: Form| -> Result<Evaluation> {
            let mut weights = convert::network(weights, &self.config(Form::C), form)?;
            tamper(form, Part::Weights, &mut weights)?;
            let mut evaluation = self.evaluate(form, &weights, x, g, mode)?;
            tamper(form, Part::Gradients, &mut evaluation.gradients)?;
            Ok(evaluation)
        };
        let expected = evaluate(Form::C)?;
        let mut tally = Tally::default();
        for form in [Form::A, Form::B] {
            let got = evaluate(form)?;
            tally.compare(|| format!("output of form ({form})"), &expected.output, &got.output)?;
            for (name, gradient) in &expected.gradients {
                let Some(other) = got.gradients.get(name) else {
                    let problem = format!("form ({form}) has no gradient of it");
                    return Err(Error::Convert { name: name.clone(), problem });
                };
                tally.compare(|| format!("gradient of form ({form}) for {name}"), gradient, other)?;
            }
        }
        Ok(tally)
    }
}

/// Output and gradients of one form, converted to form (c).
pub(super) struct Evaluation {
    pub(super) output: Tensor,
    pub(super) gradients: Tensors,
}

/// The part of a form that is changed on purpose: its weights, or its gradients, which have the names of form (c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Weights,
    Gradients,
}

/// Changes parts of a form on purpose.
pub(super) type Tamper<'a> = &'a dyn Fn(Form, Part, &mut Tensors) -> Result<()>;

/// A [`Tamper`] that changes nothing.
pub(super) fn untampered(_: Form, _: Part, _: &mut Tensors) -> Result<()> {
    Ok(())
}

pub(super) fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

pub(super) fn tensor(
    values: Vec<f64>,
    shape: impl Into<Shape>,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape.into(), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
}
