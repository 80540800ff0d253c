//! The results of the proofs, by kernel.

use super::definition::Definition;
use crate::equivalence::tally::Tally;
use crate::error::Result;
use candle_core::{DType, Tensor};
use resnext_ops::{ConvKernel, Isa};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The proof of one kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KernelProof {
    /// The instruction set.
    pub isa: String,
    /// The operation: inference, or training's forward pass or one of its gradients.
    pub operation: String,
    /// The element type of the maps.
    pub dtype: String,
    /// The kernel's name.
    pub kernel: String,
    /// The number of shapes on which it was compared with the definition.
    pub shapes: usize,
    /// The smallest and the largest magnitude up to which operands were drawn, of all shapes.
    pub operands: (i64, i64),
    /// The upper bound on the probability that a kernel other than the definition passes on a shape, the largest of all
    /// shapes. `None` where differences may be lost: where results are rounded, to bf16 or int8, or go through ReLU.
    pub bound: Option<f64>,
    /// The comparison of all outputs.
    pub tally: Tally,
}

/// One comparison: an operation in an element type, and the kernel that computes it.
pub(super) struct Run {
    pub(super) operation: &'static str,
    pub(super) dtype: DType,
    pub(super) kernel: ConvKernel,
    /// Whether every difference of the exact results shows: they are neither rounded nor cut off by ReLU.
    pub(super) shows_all: bool,
}

/// The proofs so far, by operation, type and kernel, each with whether the current shape had it.
#[derive(Default)]
pub(super) struct Proofs {
    pub(super) found: BTreeMap<(&'static str, &'static str, ConvKernel), (KernelProof, bool)>,
}

impl Proofs {
    /// Compares a result of `kernel` with the definition's.
    pub(super) fn compare(
        &mut self,
        Run { operation, dtype, kernel, shows_all }: Run,
        definition: &Definition,
        expected: &Tensor,
        got: &Tensor,
    ) -> Result<()> {
        let dtype_name = if dtype == DType::U8 { "int8" } else { dtype.as_str() };
        let new = || KernelProof {
            isa: Isa::current().name().into(),
            operation: operation.into(),
            dtype: dtype_name.into(),
            kernel: kernel.to_string(),
            shapes: 0,
            operands: (i64::MAX, 0),
            bound: Some(0.0),
            tally: Tally::default(),
        };
        let (proof, current) =
            self.found.entry((operation, dtype_name, kernel)).or_insert_with(|| (new(), false));
        *current = true;
        proof.bound = proof.bound.filter(|_| shows_all);
        let name = || format!("{operation} in {dtype_name}, {kernel}: {definition}");
        proof.tally.compare(name, expected, got)
    }

    /// Counts the current shape for every kernel that it had: the largest operand, and the probability of a miss.
    pub(super) fn end_of_shape(&mut self, operand: i64, miss: f64) {
        for (proof, current) in self.found.values_mut().filter(|(_, current)| *current) {
            proof.shapes += 1;
            proof.operands = (proof.operands.0.min(operand), proof.operands.1.max(operand));
            proof.bound = proof.bound.map(|bound| bound.max(miss));
            *current = false;
        }
    }
}
