//! CPU kernels on channels-last slices, each behind one safe function.

mod channels;
mod gather_conv;
mod geometry;
mod shared;
mod simd;
mod weight_gradient;

pub use simd::Isa;

pub(crate) use channels::{channel_sums, mean_and_variance, per_channel};
pub(crate) use gather_conv::{forward as conv_forward, input_gradient as conv_input_gradient};
pub(crate) use geometry::ConvShape;
pub(crate) use simd::Element;
pub(crate) use weight_gradient::weight_gradient as conv_weight_gradient;
