//! What is compared: blocks in a row, in any of the forms, with given weights.

use super::tally::Tally;
use crate::block::Block;
use crate::config::{BlockSize, Config, Form};
use crate::convert::{self, Tensors};
use crate::error::{Error, Result};
use crate::mode::Mode;
use crate::required_weights::required_weights;
use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::VarBuilder;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashSet};

/// Blocks in a row: a single one, or all between a network's stem and head.
#[derive(Debug, Clone)]
pub struct Stack {
    /// What they are called.
    pub name: String,
    pub(super) config: Config,
    /// Each with the prefix of its weights' names.
    pub(super) blocks: Vec<(String, BlockSize)>,
    /// Height and width of the maps it is tried on: odd and even, halved with a rest, and small, because
    /// what is to be shown does not depend on them.
    pub(super) map: (usize, usize),
}

impl Stack {
    /// All blocks of a network. The stem before and the head after them are the same in every form.
    pub fn network(name: &str, config: &Config) -> Self {
        let stages = config.blocks().into_iter().enumerate();
        let blocks = stages.flat_map(|(s, sizes)| {
            sizes.into_iter().enumerate().map(move |(i, size)| (format!("layer{}.{i}", s + 1), size))
        });
        Stack { name: name.into(), config: config.clone(), blocks: blocks.collect(), map: (9, 10) }
    }

    /// Each block of a network once, however often it is repeated.
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

    /// The same blocks, tried on maps of another height and width.
    pub fn on_map(self, map: (usize, usize)) -> Self {
        Stack { map, ..self }
    }

    /// The first block's size.
    pub(super) fn first(&self) -> Result<&BlockSize> {
        let none = || Error::Config("expected at least one block".into());
        self.blocks.first().map(|(_, size)| size).ok_or_else(none)
    }

    /// The shape of an input of `batch` maps.
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

    /// Weights in form (c), each drawn from its name and shape.
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

    /// Runs the blocks in one form with the given weights of that form.
    pub(super) fn run(
        &self,
        form: Form,
        weights: &Tensors,
        x: &Tensor,
        g: &Tensor,
        mode: Mode,
    ) -> Result<Run> {
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
        Ok(Run { output, gradients: all })
    }

    /// The shape of what the blocks put out for `x`.
    pub(super) fn output(&self, x: &Shape) -> Result<Shape> {
        let (n, mut c, mut h, mut w) = x.dims4()?;
        for (_, size) in &self.blocks {
            (c, h, w) = (size.output, h.div_ceil(size.stride), w.div_ceil(size.stride));
        }
        Ok((n, c, h, w).into())
    }

    /// Holds forms (a) and (b) to form (c), bit by bit: the output and every gradient. `tamper` may change
    /// the weights of a form first.
    pub(super) fn compare(
        &self,
        weights: &Tensors,
        x: &Tensor,
        g: &Tensor,
        mode: Mode,
        tamper: &dyn Fn(Form, &mut Tensors) -> Result<()>,
    ) -> Result<Tally> {
        let run = |form: Form| -> Result<Run> {
            let mut weights = convert::network(weights, &self.config(Form::C), form)?;
            tamper(form, &mut weights)?;
            self.run(form, &weights, x, g, mode)
        };
        let expected = run(Form::C)?;
        let mut tally = Tally::default();
        for form in [Form::A, Form::B] {
            let got = run(form)?;
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

/// What a form computed, under form (c)'s names.
pub(super) struct Run {
    pub(super) output: Tensor,
    pub(super) gradients: Tensors,
}

/// Leaves weights as they are.
pub(super) fn untampered(_: Form, _: &mut Tensors) -> Result<()> {
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
