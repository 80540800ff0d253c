//! Conversion of weights from one form to another (figure 3), bit for bit: nothing is computed.
//!
//! | layer | form (c) | form (b) | form (a) |
//! |---|---|---|---|
//! | 1×1, its batch norm | `conv1`, `bn1` | C slices of rows: `paths.i.conv1`, `paths.i.bn1` | as (b) |
//! | 3×3, its batch norm | `conv2`, `bn2` | C slices of rows: `paths.i.conv2`, `paths.i.bn2` | as (b) |
//! | 1×1 | `conv3` | `conv3` | C slices of columns: `paths.i.conv3` |
//! | batch norm, shortcut | `bn3`, `downsample` | the same | the same |
//!
//! Everything with one entry per weight converts in the same way: gradients, momentum buffers, averages. Some
//! of a block's weights convert without the others, as long as all paths have them.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use resnext_model::{Config, Form, ResNext, Variables, convert};
//!
//! let config = Config::by_name("resnext11_4x4d")?;
//! let variables = Variables::new(1, DType::F32, &Device::Cpu);
//! ResNext::new(&config, variables.builder())?;
//! let grouped = variables.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect();
//!
//! let paths = convert::network(&grouped, &config, Form::A)?;
//! assert_eq!(grouped["layer1.0.conv2.weight"].dims(), [16, 4, 3, 3]);
//! assert_eq!(paths["layer1.0.paths.3.conv2.weight"].dims(), [4, 4, 3, 3]);
//! # Ok::<(), resnext_model::Error>(())
//! ```

use crate::config::{Config, Form};
use crate::error::{Error, Result};
use crate::layer_names;
use candle_core::Tensor;
use std::collections::BTreeMap;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Converts the weights of a whole network from the form of `config` to the form `to`.
///
/// # Errors
/// [`Error::Convert`] if a weight of a path is missing, unexpected, or of a shape that cannot be joined or
/// split; [`Error::Config`] if blocks of this kind do not have the form.
pub fn network(tensors: &Tensors, config: &Config, to: Form) -> Result<Tensors> {
    config.check_form(to)?;
    let mut converted = Tensors::new();
    let mut blocks = BTreeMap::<&str, Tensors>::new();
    for (name, tensor) in tensors {
        match layer_names::split_block(name) {
            Some((prefix, inner)) => {
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

/// Converts the weights of one block with `cardinality` paths between forms. Names are those within the
/// block, such as `conv2.weight`.
///
/// # Errors
/// [`Error::Convert`], as [`network`].
pub fn block(tensors: &Tensors, cardinality: usize, from: Form, to: Form) -> Result<Tensors> {
    if from == to {
        return Ok(tensors.clone());
    }
    split(&join(tensors, cardinality, from)?, cardinality, to)
}

/// The dimension along which a layer of form (c) is the concatenation of its paths' parts, if `form` splits
/// it.
fn path_dim(name: &str, form: Form) -> Option<usize> {
    match (name.split('.').next()?, form) {
        (_, Form::C) => None,
        ("conv1" | "bn1" | "conv2" | "bn2", Form::A | Form::B) => Some(0),
        ("conv3", Form::A) => Some(1),
        (_, Form::A | Form::B) => None,
    }
}

/// Joins the paths of form `from` to form (c).
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
        // A scalar, such as PyTorch's num_batches_tracked, is the same in all paths.
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

/// Splits form (c) into the paths of form `to`.
fn split(tensors: &Tensors, cardinality: usize, to: Form) -> Result<Tensors> {
    let mut parts = Tensors::new();
    for (name, tensor) in tensors {
        let Some(dim) = path_dim(name, to) else {
            parts.insert(name.clone(), tensor.clone());
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
            parts.insert(format!("paths.{i}.{name}"), part);
        }
    }
    Ok(parts)
}
