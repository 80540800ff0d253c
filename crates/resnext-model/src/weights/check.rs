//! Checks that weights are those of a network before any is read, and loads them into variables.

use super::file::FileBytes;
use super::mismatch::weights_mismatch;
use super::{Head, Weights};
use crate::architecture::Architecture;
use crate::baselines::BaselineNetwork;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::layer_names;
use crate::network::ResNext;
use crate::required_weights::required_weights;
use crate::variables::Variables;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

impl Head {
    /// Whether the weight `name` is taken from the file.
    fn loads(self, name: &str) -> bool {
        self == Head::Loaded || !layer_names::is_head(name)
    }
}

impl Weights {
    /// Checks that the file holds exactly the weights of `network`, a [`Config`] or an [`Architecture`]; with
    /// [`Head::Fresh`], the last layer of a ResNet or ResNeXt aside.
    ///
    /// # Errors
    /// [`Error::Mismatch`], which counts the weights of the wrong shape, the missing and the unexpected, and
    /// lists the first ten of each; if weights are missing, it also names ten
    /// tensors of the file.
    pub fn check(&self, network: impl Into<Architecture>, head: Head) -> Result<()> {
        let network = network.into();
        let fits = |problem: Option<String>| match problem {
            None => Ok(()),
            Some(problem) => Err(Error::Mismatch { path: self.path.clone(), problem }),
        };
        fits(self.too_small_for(&network)?)?;
        let required = match &network {
            Architecture::ResNext(config) => required_weights(|builder| ResNext::new(config, builder))?,
            Architecture::Baseline { baseline, classes } => {
                required_weights(|builder| BaselineNetwork::new(*baseline, *classes, builder))?
            }
        };
        let required = required.iter().map(|(name, shape)| (name.as_str(), shape.dims()));
        let required: BTreeMap<_, _> = required.filter(|(name, _)| head.loads(name)).collect();
        let found: BTreeMap<_, _> = self.shapes().filter(|(name, _)| head.loads(name)).collect();
        let missing = required.keys().any(|name| !found.contains_key(name));
        fits(weights_mismatch(&required, &found).map(|problem| match missing {
            true => format!("{problem}; file has {}", self.some_names()),
            false => problem,
        }))
    }

    /// A few names and shapes can describe a network of any size. One that this file cannot hold, in whatever
    /// type, must not be built to compare it.
    fn too_small_for(&self, network: &Architecture) -> Result<Option<String>> {
        let parameters = network.summary(1, 1)?.parameters();
        let len_of = |file: &Mutex<FileBytes>| file.lock().unwrap_or_else(PoisonError::into_inner).len;
        let len: u64 = self.files.iter().map(len_of).sum();
        let too_small = parameters as u64 > len.saturating_mul(4).saturating_add(1 << 24);
        Ok(too_small.then(|| {
            format!("its shapes are of a network of {parameters} weights, the file has {len} bytes")
        }))
    }

    /// Copies the weights into the variables of a network of `config`. With [`Head::Fresh`] the last layer
    /// keeps its values, to start training for another task. Everything is checked and read before any
    /// variable changes.
    ///
    /// # Errors
    /// The errors of [`check`](Self::check) and [`tensor`](Self::tensor).
    pub fn assign(&self, variables: &Variables, config: &Config, head: Head) -> Result<()> {
        self.check(config, head)?;
        let all = variables.all();
        let read = all.iter().filter(|(name, _)| head.loads(name)).map(|(name, var)| {
            let tensor = self.tensor(name, var.device())?.to_dtype(var.dtype())?;
            Ok((var, tensor))
        });
        for (var, tensor) in read.collect::<Result<Vec<_>>>()? {
            var.set(&tensor)?;
        }
        Ok(())
    }
}
