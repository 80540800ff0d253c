//! The optimizer of a run, one of three.

use crate::adam::{Adam, AdamWConfig, LambConfig};
use crate::error::Result;
use crate::parameter_group::ParameterGroup;
use crate::sgd::{Sgd, SgdConfig};
use candle_core::{Tensor, Var};

/// The optimizer and its settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerConfig {
    /// SGD with momentum.
    Sgd(SgdConfig),
    /// Adam with decoupled weight decay.
    AdamW(AdamWConfig),
    /// Adam with an update in proportion to each tensor's norm, for large batches.
    Lamb(LambConfig),
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig::Sgd(SgdConfig::default())
    }
}

/// An optimizer with its state.
#[derive(Debug)]
pub(crate) enum Optimizer {
    Sgd(Sgd),
    Adam(Adam),
}

impl Optimizer {
    /// An optimizer for the named `parameters`, each in the group that `group` gives it.
    pub(crate) fn new(
        config: &OptimizerConfig,
        parameters: Vec<(String, Var)>,
        group: impl Fn(&str, &[usize]) -> ParameterGroup,
    ) -> Result<Self> {
        Ok(match config {
            OptimizerConfig::Sgd(config) => Optimizer::Sgd(Sgd::new(parameters, *config)?.with_groups(group)),
            OptimizerConfig::AdamW(config) => {
                Optimizer::Adam(Adam::adamw(parameters, *config)?.with_groups(group))
            }
            OptimizerConfig::Lamb(config) => {
                Optimizer::Adam(Adam::lamb(parameters, *config)?.with_groups(group))
            }
        })
    }

    pub(crate) fn with_average(self, decay: f64, others: Vec<(String, Var)>) -> Result<Self> {
        Ok(match self {
            Optimizer::Sgd(sgd) => Optimizer::Sgd(sgd.with_average(decay, others)?),
            Optimizer::Adam(adam) => Optimizer::Adam(adam.with_average(decay, others)?),
        })
    }

    /// Continues after `steps` steps, of which `average_from` were complete when the average began.
    pub(crate) fn set_steps(&mut self, steps: usize, average_from: usize) {
        match self {
            Optimizer::Sgd(sgd) => sgd.set_steps(steps - average_from),
            Optimizer::Adam(adam) => adam.set_steps(steps, average_from),
        }
    }

    pub(crate) fn step<'a>(&mut self, lr: f64, gradient: impl Fn(&Var) -> Option<&'a Tensor>) -> Result<()> {
        match self {
            Optimizer::Sgd(sgd) => sgd.step(lr, gradient),
            Optimizer::Adam(adam) => adam.step(lr, gradient),
        }
    }

    /// The averages of the weights; empty if none are kept.
    pub(crate) fn averages(&self) -> Vec<(String, Var)> {
        match self {
            Optimizer::Sgd(sgd) => sgd.averages(),
            Optimizer::Adam(adam) => adam.averages(),
        }
    }

    /// The running means of gradients: SGD's momentum.
    pub(crate) fn momentum(&self) -> Vec<(String, Var)> {
        match self {
            Optimizer::Sgd(sgd) => sgd.buffers(),
            Optimizer::Adam(adam) => adam.means(),
        }
    }

    /// The running means of squared gradients; empty for SGD.
    pub(crate) fn squares(&self) -> Vec<(String, Var)> {
        match self {
            Optimizer::Sgd(_) => Vec::new(),
            Optimizer::Adam(adam) => adam.squares(),
        }
    }
}
