//! Whole parts of a network as one operation each, which keep less in memory and read it less often.

mod bottleneck;
mod conv_bn;
mod elements;
mod stem;

pub use bottleneck::Bottleneck;
pub use conv_bn::ConvBn;
pub use stem::Stem;
