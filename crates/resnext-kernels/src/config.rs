//! The settings of a convolution.

/// The settings of a 2-D convolution, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Pixels from one output to the next.
    pub stride: usize,
    /// Zeros added on each side.
    pub padding: usize,
    /// Pixels from one kernel element to the next.
    pub dilation: usize,
    /// Independent groups of channels: 1 is a dense convolution, as many as channels a depthwise one.
    pub groups: usize,
}

impl Default for Conv2dConfig {
    fn default() -> Self {
        Conv2dConfig { stride: 1, padding: 0, dilation: 1, groups: 1 }
    }
}
