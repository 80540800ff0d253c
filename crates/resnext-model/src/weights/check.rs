//! Whether weights are those of a network, before any is read.

use super::{Head, Weights};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::network::ResNext;
use crate::required_weights::required_weights;
use crate::summary::Summary;
use crate::variables::Variables;
use std::sync::PoisonError;

/// Names listed of each kind of problem.
const LISTED: usize = 10;

impl Weights {
    /// Checks that the file holds the weights of `config`, no more and no less.
    ///
    /// # Errors
    /// [`Error::Mismatch`] that counts the weights of the wrong shape, missing and unexpected, and lists at most
    /// ten of each.
    pub fn check(&self, config: &Config, head: Head) -> Result<()> {
        // A few names and shapes can describe a network of any size: what this file cannot hold is not built.
        let parameters = Summary::new(config, 1, 1)?.parameters();
        let len = self.file.lock().unwrap_or_else(PoisonError::into_inner).len;
        if parameters as u64 > len.saturating_mul(4).saturating_add(1 << 24) {
            let problem =
                format!("its shapes are of a network of {parameters} weights, the file has {len} bytes");
            return Err(Error::Mismatch { path: self.path.clone(), problem });
        }
        let expected = required_weights(|builder| ResNext::new(config, builder))?;
        let of_head = |name: &str| head == Head::Fresh && name.starts_with("fc.");
        let wrong = expected.iter().filter_map(|(name, shape)| {
            let found = &self.entries.get(name)?.shape;
            let differs = found != shape.dims() && !of_head(name);
            // The usual case deserves words of its own.
            differs.then(|| match (name.as_str(), found.first()) {
                ("fc.weight", Some(classes)) if found.get(1..) == shape.dims().get(1..) => {
                    format!("expected {} classes, file has {classes}: {name}", config.classes)
                }
                _ => format!("expected shape {shape:?}, file has {found:?}: {name}"),
            })
        });
        let missing = expected.keys().filter(|name| !self.entries.contains_key(*name) && !of_head(name));
        let unexpected = self.entries.keys().filter(|name| !expected.contains_key(*name) && !of_head(name));
        let mut problems = Vec::new();
        list(&mut problems, "of the wrong shape", wrong);
        list(&mut problems, "missing", missing.cloned());
        list(&mut problems, "unexpected", unexpected.cloned());
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Error::Mismatch { path: self.path.clone(), problem: problems.join("; ") }),
        }
    }

    /// Copies the weights into the variables of a network of `config`, with a fresh last layer if asked: the
    /// start of training for another task. Everything is checked before anything is changed.
    ///
    /// # Errors
    /// Those of [`check`](Self::check) and [`tensor`](Self::tensor).
    pub fn assign(&self, variables: &Variables, config: &Config, head: Head) -> Result<()> {
        self.check(config, head)?;
        let wanted = |name: &str| !(head == Head::Fresh && name.starts_with("fc."));
        let all = variables.all();
        let read = all.iter().filter(|(name, _)| wanted(name)).map(|(name, var)| {
            let tensor = self.tensor(name, var.device())?.to_dtype(var.dtype())?;
            Ok((var, tensor))
        });
        for (var, tensor) in read.collect::<Result<Vec<_>>>()? {
            var.set(&tensor)?;
        }
        Ok(())
    }
}

fn list(problems: &mut Vec<String>, what: &str, names: impl Iterator<Item = String>) {
    let names: Vec<String> = names.collect();
    if !names.is_empty() {
        let more = if names.len() > LISTED { ", …" } else { "" };
        let shown: Vec<String> =
            names.iter().take(LISTED).map(|name| name.escape_debug().to_string()).collect();
        problems.push(format!("{} {what}: {}{more}", names.len(), shown.join(", ")));
    }
}
