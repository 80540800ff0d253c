//! A convolution, or one of its gradients, to compute: sizes, types and addresses.

use candle_core::{CudaDevice, DType};
use resnext_kernels::ConvShape;

/// Which tensor is computed from which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// The output, from the input and the weight.
    Forward,
    /// The input's gradient, from the output's gradient and the weight.
    Input,
    /// The weight's gradient, from the output's gradient and the input.
    Weight,
}

impl Direction {
    pub(crate) const ALL: [Direction; 3] = [Direction::Forward, Direction::Input, Direction::Weight];
}

/// A convolution or gradient, with the addresses of its two operands.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) device: &'a CudaDevice,
    pub(super) shape: &'a ConvShape,
    pub(super) direction: Direction,
    /// The type of the feature maps.
    pub(super) dtype: DType,
    /// The type of the weight or of its gradient.
    pub(super) weight_dtype: DType,
    /// The input if the output is computed, else the output's gradient; channels-last.
    pub(super) image: u64,
    /// The weight (Cout, Cin/groups, kh, kw) or, if its gradient is computed, the input, channels-last.
    pub(super) other: u64,
}

impl Job<'_> {
    /// The number of elements of the result.
    pub(super) fn result_len(&self) -> usize {
        match self.direction {
            Direction::Forward => self.shape.output_len(),
            Direction::Input => self.shape.input_len(),
            Direction::Weight => self.shape.weight_len(),
        }
    }

    pub(super) fn result_dtype(&self) -> DType {
        if self.direction == Direction::Weight { self.weight_dtype } else { self.dtype }
    }
}
