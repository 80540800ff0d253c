//! Negative controls: deliberately broken forms, which the proof must detect.

use super::activations::trial as activations_trial;
use super::distance::values;
use super::identity::{Kind, primes, trial as identity_trial};
use super::stack::{Stack, generator, tensor};
use super::tally::{Difference, Tally};
use crate::config::{Form, Shortcut};
use crate::convert::{self, Tensors};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rand::RngExt;
use serde::Serialize;

/// One way to break a form, and whether the proof detected it.
#[derive(Debug, Clone, Serialize)]
pub struct Control {
    /// What was broken.
    pub name: &'static str,
    /// The type of the computation.
    pub dtype: String,
    /// The first number that differed. `None` means that the proof did not detect it.
    pub caught: Option<Difference>,
}

type Tamper = fn(&mut Tensors) -> Result<()>;

/// Breaks a block in nine ways, and checks whether the proof detects each.
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
    // Applies `tamper` to the weights of one form, under their names within the block.
    let broken = |form: Form, tamper: Tamper| {
        move |this: Form, weights: &mut Tensors| -> Result<()> {
            if this == form {
                let strip = |(name, t): (String, Tensor)| (name[prefix.len() + 1..].to_string(), t);
                let mut own: Tensors = std::mem::take(weights).into_iter().map(strip).collect();
                tamper(&mut own)?;
                *weights = own.into_iter().map(|(name, t)| (format!("{prefix}.{name}"), t)).collect();
            }
            Ok(())
        }
    };
    let polynomial: [(&'static str, Form, Tamper); 5] = [
        ("a permuted group", Form::B, |w| swap(w, "paths.0.conv2.weight", "paths.1.conv2.weight")),
        ("a weight moved by one", Form::A, |w| change(w, "paths.1.conv3.weight", |v| v + 1.0)),
        ("a missing path", Form::A, |w| zero(w, "paths.1.conv3.weight")),
        ("groups off by one channel", Form::C, |w| {
            let weight = get(w, "conv1.weight")?.roll(1, 0)?;
            w.insert("conv1.weight".into(), weight);
            Ok(())
        }),
        ("the shortcut left out", Form::B, |w| zero(w, "downsample.0.weight")),
    ];
    let mut found = Vec::new();
    let mut note = |name, dtype, tally: Tally| {
        let dtype = format!("{dtype:?}").to_lowercase();
        found.push(Control { name, dtype, caught: tally.first });
    };
    for dtype in [DType::F64, DType::F32] {
        let modulus = primes(stack, dtype)?.next().unwrap_or(3);
        for (name, form, tamper) in polynomial {
            let tamper = broken(form, tamper);
            let at = (Kind::Polynomials, modulus);
            let tally = identity_trial(stack, dtype, device, at, &mut generator(seed), &tamper)?;
            note(name, dtype, tally);
        }
        if device.is_metal() {
            break;
        }
    }
    let wrong = broken(Form::A, wrong_statistics);
    let name = "batch-norm statistics of the wrong path";
    note(name, DType::F64, activations_trial(stack, device, &mut generator(seed), &wrong)?);
    if !device.is_metal() {
        let at = (Kind::Functions, primes(stack, DType::F64)?.next().unwrap_or(3));
        for (name, form, tamper) in [
            ("batch-norm statistics of the wrong path, as functions", Form::A, wrong_statistics as Tamper),
            ("batch norms of two paths exchanged, as functions", Form::B, wrong_norm),
        ] {
            let (rng, tamper) = (&mut generator(seed), broken(form, tamper));
            note(name, DType::F64, identity_trial(stack, DType::F64, device, at, rng, &tamper)?);
        }
    }
    note("a converted weight moved by one ulp", DType::F32, one_ulp(stack, device, seed)?);
    Ok(found)
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
