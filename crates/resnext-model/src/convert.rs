//! Weights of one form as those of another (figure 3), and back, bit for bit.
//!
//! | layer | form (c) | form (b) | form (a) |
//! |---|---|---|---|
//! | 1×1, its batch norm | `conv1`, `bn1` | C slices of rows: `paths.i.conv1`, `paths.i.bn1` | as (b) |
//! | 3×3, its batch norm | `conv2`, `bn2` | C slices of rows: `paths.i.conv2`, `paths.i.bn2` | as (b) |
//! | 1×1 | `conv3` | `conv3` | C slices of columns: `paths.i.conv3` |
//! | batch norm, shortcut | `bn3`, `downsample` | the same | the same |
//!
//! Anything that has an entry a weight converts alike: gradients, momentum buffers, averages. Any part of
//! a block's weights will do, as long as all paths have it.

use crate::config::{Config, Form};
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::collections::BTreeMap;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// The weights of a whole network of `config`, whose form is theirs, in the form `to`.
///
/// # Errors
/// [`Error::Convert`] if a path's weight is missing, too many or of a shape that can't be joined or split;
/// [`Error::Config`] if blocks of this kind don't have the form.
pub fn network(tensors: &Tensors, config: &Config, to: Form) -> Result<Tensors> {
    config.block.check_form(to)?;
    let mut converted = Tensors::new();
    let mut blocks = BTreeMap::<&str, Tensors>::new();
    for (name, tensor) in tensors {
        match block_prefix(name) {
            Some(end) => {
                let (prefix, inner) = name.split_at(end);
                blocks.entry(prefix).or_default().insert(inner.to_string(), tensor.clone());
            }
            None => {
                converted.insert(name.clone(), tensor.clone());
            }
        }
    }
    for (prefix, tensors) in blocks {
        let tensors = block(&tensors, config.cardinality, config.form, to).map_err(|error| match error {
            Error::Convert { name, problem } => Error::Convert { name: format!("{prefix}{name}"), problem },
            other => other,
        })?;
        converted.extend(tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
    }
    Ok(converted)
}

/// The weights of one block of `cardinality` paths, in the form `to` instead of `from`.
///
/// # Errors
/// As [`network`].
pub fn block(tensors: &Tensors, cardinality: usize, from: Form, to: Form) -> Result<Tensors> {
    if from == to {
        return Ok(tensors.clone());
    }
    split(&join(tensors, cardinality, from)?, cardinality, to)
}

/// Where `layer1.0.` ends in the name of a block's weight.
fn block_prefix(name: &str) -> Option<usize> {
    let mut dots = name.match_indices('.').map(|(at, _)| at);
    let (first, second) = (dots.next()?, dots.next()?);
    let stage = name[..first].strip_prefix("layer")?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (number(stage) && number(&name[first + 1..second])).then_some(second + 1)
}

/// The dimension in which the paths' parts of a layer lie one after another, where `form` has them apart.
fn path_dim(name: &str, form: Form) -> Option<usize> {
    match (name.split('.').next()?, form) {
        (_, Form::C) => None,
        ("conv1" | "bn1" | "conv2" | "bn2", _) => Some(0),
        ("conv3", Form::A) => Some(1),
        _ => None,
    }
}

/// To form (c).
fn join(tensors: &Tensors, cardinality: usize, from: Form) -> Result<Tensors> {
    let wrong = |name: &str, problem: String| Err(Error::Convert { name: name.to_string(), problem });
    let mut joined = Tensors::new();
    let mut parts = BTreeMap::<&str, BTreeMap<usize, &Tensor>>::new();
    for (name, tensor) in tensors {
        let part = name.strip_prefix("paths.").and_then(|rest| rest.split_once('.'));
        match part.and_then(|(i, name)| Some((i.parse::<usize>().ok()?, name))) {
            Some((i, part)) if path_dim(part, from).is_some() && i < cardinality => {
                parts.entry(part).or_default().insert(i, tensor);
            }
            None if path_dim(name, from).is_none() => {
                joined.insert(name.clone(), tensor.clone());
            }
            _ => return wrong(name, format!("not a weight of form ({from}) with {cardinality} paths")),
        }
    }
    for (name, parts) in parts {
        if let Some(missing) = (0..cardinality).find(|i| !parts.contains_key(i)) {
            let problem = format!("expected {cardinality} paths, found {}, missing", parts.len());
            return wrong(&format!("paths.{missing}.{name}"), problem);
        }
        let parts: Vec<&Tensor> = parts.into_values().collect();
        let dim = path_dim(name, from).unwrap_or(0);
        // A number, such as PyTorch's count of batches, is the same for all.
        let tensor = if parts[0].rank() == 0 { Ok(parts[0].clone()) } else { Tensor::cat(&parts, dim) };
        match tensor {
            Ok(tensor) => joined.insert(name.to_string(), tensor),
            Err(_) => {
                let shapes: Vec<_> = parts.iter().map(|part| part.dims()).collect();
                return wrong(name, format!("expected paths of one shape, got {shapes:?}"));
            }
        };
    }
    Ok(joined)
}

/// From form (c).
fn split(tensors: &Tensors, cardinality: usize, to: Form) -> Result<Tensors> {
    let mut apart = Tensors::new();
    for (name, tensor) in tensors {
        let Some(dim) = path_dim(name, to) else {
            apart.insert(name.clone(), tensor.clone());
            continue;
        };
        if tensor.rank() > 0 && (tensor.rank() <= dim || tensor.dim(dim)? % cardinality.max(1) != 0) {
            let problem =
                format!("expected dimension {dim} divisible by {cardinality} paths, got {:?}", tensor.dims());
            return Err(Error::Convert { name: name.clone(), problem });
        }
        for i in 0..cardinality {
            let part = match tensor.rank() {
                0 => tensor.clone(),
                _ => {
                    let len = tensor.dim(dim)? / cardinality;
                    tensor.narrow(dim, i * len, len)?.contiguous()?
                }
            };
            apart.insert(format!("paths.{i}.{name}"), part);
        }
    }
    Ok(apart)
}
