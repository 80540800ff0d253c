//! Negative controls: deliberately broken forms, which the proof must detect.

use super::activations::trial as activations_trial;
use super::distance::values;
use super::equal::{NotEqual, prove_equal};
use super::functions::Functions;
use super::identity::{Kind, primes, trial as identity_trial};
use super::stack::{Part, Stack, generator, tensor};
use super::tally::{Difference, Tally};
use crate::config::{Form, Shortcut};
use crate::convert::{self, Tensors};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rand::RngExt;
use resnext_ops::{Conv2dConfig, conv2d};
use serde::Serialize;

/// One way to break a form, and whether the proof detected it.
#[derive(Debug, Clone, Serialize)]
pub struct Control {
    /// The fault that was made on purpose.
    pub name: &'static str,
    /// The type of the computation.
    pub dtype: String,
    /// The first number that differed. `None` means that the proof did not detect it.
    pub caught: Option<Difference>,
}

type Change = fn(&mut Tensors) -> Result<()>;

/// Breaks a block in ten ways, and checks whether the proof detects each; and whether [`prove_equal`] detects that an
/// axiom of TASO's, an optimizer of computation graphs, is wrong.
///
/// # Errors
/// [`Error::Config`] if the block has no projection, or fewer than two paths of two channels, so that it
/// cannot be broken in all ways; or if an operation fails.
pub fn controls(stack: &Stack, device: &Device, seed: u64) -> Result<Vec<Control>> {
    let size = stack.first()?;
    let projection = size.changes_shape() && stack.config.shortcut == Shortcut::Projection;
    if stack.blocks.len() != 1 || !projection || size.cardinality < 2 || size.path < 2 {
        let message = "expected one block with a projection and at least two paths of two channels";
        return Err(Error::Config(message.into()));
    }
    let prefix = &stack.blocks[0].0;
    // Changes one part of one form, whose tensors have their names within the block.
    let broken = |form: Form, part: Part, change: Change| {
        move |this: Form, of: Part, tensors: &mut Tensors| -> Result<()> {
            if (this, of) == (form, part) {
                let (own, rest): (Tensors, Tensors) =
                    std::mem::take(tensors).into_iter().partition(|(name, _)| name.starts_with(prefix));
                let strip = |(name, t): (String, Tensor)| (name[prefix.len() + 1..].to_string(), t);
                let mut own: Tensors = own.into_iter().map(strip).collect();
                change(&mut own)?;
                let own = own.into_iter().map(|(name, t)| (format!("{prefix}.{name}"), t));
                *tensors = own.chain(rest).collect();
            }
            Ok(())
        }
    };
    let polynomial: [(&'static str, Form, Part, Change); 6] = [
        ("a permuted group", Form::B, Part::Weights, |w| {
            swap(w, "paths.0.conv2.weight", "paths.1.conv2.weight")
        }),
        ("a weight moved by one", Form::A, Part::Weights, |w| change(w, "paths.1.conv3.weight", |v| v + 1.0)),
        ("a missing path", Form::A, Part::Weights, |w| zero(w, "paths.1.conv3.weight")),
        ("groups off by one channel", Form::C, Part::Weights, |w| roll(w, "conv1.weight")),
        ("the shortcut left out", Form::B, Part::Weights, |w| zero(w, "downsample.0.weight")),
        ("a gradient off by one channel", Form::A, Part::Gradients, |w| roll(w, "conv2.weight")),
    ];
    let mut found = Vec::new();
    let mut note = |name, dtype, tally: Tally| {
        let dtype = format!("{dtype:?}").to_lowercase();
        found.push(Control { name, dtype, caught: tally.first });
    };
    for dtype in [DType::F64, DType::F32] {
        let modulus = primes(stack, dtype)?.next().unwrap_or(3);
        for (name, form, part, change) in polynomial {
            let tamper = broken(form, part, change);
            let at = (Kind::Polynomials, modulus);
            let tally = identity_trial(stack, dtype, device, at, &mut generator(seed), &tamper)?;
            note(name, dtype, tally);
        }
        if device.is_metal() {
            break;
        }
    }
    let wrong = broken(Form::A, Part::Weights, wrong_statistics);
    let name = "batch-norm statistics of the wrong path";
    note(name, DType::F64, activations_trial(stack, device, &mut generator(seed), &wrong)?);
    if !device.is_metal() {
        let at = (Kind::Functions, primes(stack, DType::F64)?.next().unwrap_or(3));
        for (name, form, change) in [
            ("batch-norm statistics of the wrong path, as functions", Form::A, wrong_statistics as Change),
            ("batch norms of two paths exchanged, as functions", Form::B, wrong_norm),
        ] {
            let (rng, tamper) = (&mut generator(seed), broken(form, Part::Weights, change));
            note(name, DType::F64, identity_trial(stack, DType::F64, device, at, rng, &tamper)?);
        }
    }
    note("a converted weight moved by one ulp", DType::F32, one_ulp(stack, device, seed)?);
    let name = "TASO's axiom on grouped convolutions, withdrawn as wrong";
    found.push(Control { name, dtype: "f64".into(), caught: taso_axiom()? });
    Ok(found)
}

/// Where the axiom fails that two grouped convolutions, whose outputs are concatenated, are one with concatenated weights.
/// They have one input channel per group, and 1 and 3 output channels per group: then output channel 1 reads group 1 on one
/// side and group 0 on the other.
fn taso_axiom() -> Result<Option<Difference>> {
    const GROUPS: usize = 4;
    let conv = |x: &Tensor, weight: &Tensor| {
        let config = Conv2dConfig { padding: 1, groups: GROUPS, ..Conv2dConfig::default() };
        conv2d(x, weight, &config).map_err(candle_core::Error::wrap)
    };
    let apart = |_: &Functions, t: &[Tensor]| Tensor::cat(&[conv(&t[0], &t[1])?, conv(&t[0], &t[2])?], 1);
    let joined = |_: &Functions, t: &[Tensor]| conv(&t[0], &Tensor::cat(&t[1..], 0)?);
    let shapes = [&[2, GROUPS, 5, 6][..], &[GROUPS, 1, 3, 3], &[3 * GROUPS, 1, 3, 3]];
    match prove_equal(apart, joined, &shapes, 1e-15) {
        Ok(_) => Ok(None),
        Err(NotEqual::Different(place)) => Ok(Some(Difference {
            tensor: "the concatenated outputs".into(),
            index: place.index,
            expected: place.first as f64,
            got: place.second as f64,
        })),
        Err(NotEqual::Candle(error)) => Err(error.into()),
        Err(other) => Err(Error::Config(other.to_string())),
    }
}

/// Converts real weights to form (a) and back, and moves one of them to the next larger number in between.
fn one_ulp(stack: &Stack, device: &Device, seed: u64) -> Result<Tally> {
    let mut rng = generator(seed);
    let reals = |_: &str, n: usize| (0..n).map(|_| rng.random_range(0.5..1.0)).collect();
    let weights = stack.draw(DType::F32, device, reals)?;
    let mut apart = convert::network(&weights, &stack.config(Form::C), Form::A)?;
    let name = format!("{}.paths.1.conv2.weight", stack.blocks[0].0);
    change(&mut apart, &name, |v| (v as f32).next_up() as f64)?;
    let back = convert::network(&apart, &stack.config(Form::A), Form::C)?;
    let mut tally = Tally::default();
    for (name, weight) in &weights {
        tally.compare(|| name.clone(), weight, get(&back, name)?)?;
    }
    Ok(tally)
}

fn wrong_statistics(weights: &mut Tensors) -> Result<()> {
    swap(weights, "paths.0.bn1.running_mean", "paths.1.bn1.running_mean")
}

/// Exchanges the whole batch norms of two paths.
fn wrong_norm(weights: &mut Tensors) -> Result<()> {
    ["weight", "bias", "running_mean", "running_var"]
        .iter()
        .try_for_each(|of| swap(weights, &format!("paths.0.bn2.{of}"), &format!("paths.1.bn2.{of}")))
}

fn get<'a>(weights: &'a Tensors, name: &str) -> Result<&'a Tensor> {
    let missing = || Error::Convert { name: name.into(), problem: "no such weight".into() };
    weights.get(name).ok_or_else(missing)
}

fn swap(weights: &mut Tensors, a: &str, b: &str) -> Result<()> {
    let (first, second) = (get(weights, a)?.clone(), get(weights, b)?.clone());
    weights.extend([(a.to_string(), second), (b.to_string(), first)]);
    Ok(())
}

/// Moves the output channels of a weight or of its gradient by one.
fn roll(weights: &mut Tensors, name: &str) -> Result<()> {
    let moved = get(weights, name)?.roll(1, 0)?;
    weights.insert(name.to_string(), moved);
    Ok(())
}

fn zero(weights: &mut Tensors, name: &str) -> Result<()> {
    let zeros = get(weights, name)?.zeros_like()?;
    weights.insert(name.to_string(), zeros);
    Ok(())
}

/// Applies `f` to the last element of a weight.
fn change(weights: &mut Tensors, name: &str, f: impl Fn(f64) -> f64) -> Result<()> {
    let weight = get(weights, name)?;
    let mut values = values(weight)?;
    if let Some(last) = values.last_mut() {
        *last = f(*last);
    }
    let changed = tensor(values, weight.shape(), weight.dtype(), weight.device())?;
    weights.insert(name.to_string(), changed);
    Ok(())
}
