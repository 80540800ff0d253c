//! One convolution to compute: sizes, types and addresses.

use candle_core::{CudaDevice, DType};
use resnext_kernels::ConvShape;

/// What is computed from what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// The output from input and weight.
    Forward,
    /// The input's gradient from the output's and the weight.
    Input,
    /// The weight's gradient from the output's and the input.
    Weight,
}

impl Direction {
    pub(crate) const ALL: [Direction; 3] = [Direction::Forward, Direction::Input, Direction::Weight];
}

/// A convolution of elements at two addresses: input or output's gradient, and weight or, for the weight's gradient,
/// the input.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) device: &'a CudaDevice,
    pub(super) shape: &'a ConvShape,
    pub(super) direction: Direction,
    /// Of the images.
    pub(super) dtype: DType,
    /// Of the weight, or of its gradient.
    pub(super) weight_dtype: DType,
    /// Forward the input; else the output's gradient. Channels-last.
    pub(super) image: u64,
    /// Forward, and for the input's gradient, the weight (Cout, Cin/groups, kh, kw); else the input.
    pub(super) other: u64,
}

impl Job<'_> {
    /// Elements of the result.
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
