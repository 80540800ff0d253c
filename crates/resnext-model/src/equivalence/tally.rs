//! Comparisons to the last bit.

use super::distance::{same_bits, values};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// The result of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// The number of values compared.
    pub numbers: u64,
    /// The number of bits that differ.
    pub bits: u64,
    /// The first value that differs.
    pub first: Option<Difference>,
}

/// A value that differs from form (c)'s.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The name of the tensor.
    pub tensor: String,
    /// The index in the tensor.
    pub index: Vec<usize>,
    /// The value that was expected: form (c)'s, or the definition's.
    pub expected: f64,
    /// The value that was found.
    pub got: f64,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {:?}: expected {}, got {}", self.tensor, self.index, self.expected, self.got)
    }
}

impl Tally {
    /// Compares two tensors of the same shape; `name` describes them.
    pub(super) fn compare(
        &mut self,
        name: impl Fn() -> String,
        expected: &Tensor,
        got: &Tensor,
    ) -> Result<()> {
        if expected.dims() != got.dims() {
            let problem = format!("expected shape {:?}, got {:?}", expected.dims(), got.dims());
            return Err(Error::Convert { name: name(), problem });
        }
        if same_bits(expected, got)? {
            self.numbers += expected.elem_count() as u64;
            return Ok(());
        }
        // Conversion to f64 is exact. f32's bits are counted in f32, those of other types in f64.
        let (dims, dtype, e, g) = (expected.dims(), expected.dtype(), values(expected)?, values(got)?);
        let differing = |e: f64, g: f64| match dtype {
            // NaN and infinity are wrong even where both sides have them.
            dtype if !g.is_finite() => 8 * dtype.size_in_bytes() as u32,
            DType::F32 => ((e as f32).to_bits() ^ (g as f32).to_bits()).count_ones(),
            _ => (e.to_bits() ^ g.to_bits()).count_ones(),
        };
        for (i, (&e, &g)) in e.iter().zip(&g).enumerate() {
            let bits = differing(e, g);
            if bits > 0 && self.first.is_none() {
                let mut index: Vec<usize> = Vec::with_capacity(dims.len());
                let mut rest = i;
                for &dim in dims.iter().rev() {
                    index.insert(0, rest % dim);
                    rest /= dim;
                }
                self.first = Some(Difference { tensor: name(), index, expected: e, got: g });
            }
            self.bits += bits as u64;
        }
        self.numbers += e.len() as u64;
        Ok(())
    }

    /// Adds the result of a later comparison.
    pub fn merge(&mut self, other: Tally) {
        self.numbers += other.numbers;
        self.bits += other.bits;
        self.first = self.first.take().or(other.first);
    }
}
