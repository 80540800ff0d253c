//! Sizes and settings of a convolution.

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

/// The sizes of one convolution, checked.
#[derive(Debug, Clone, Copy)]
pub struct ConvShape {
    pub batch: usize,
    pub in_channels: usize,
    pub in_h: usize,
    pub in_w: usize,
    pub out_channels: usize,
    pub out_h: usize,
    pub out_w: usize,
    pub kernel_h: usize,
    pub kernel_w: usize,
    pub config: Conv2dConfig,
}

impl ConvShape {
    /// Input channels a group.
    pub fn group_in(&self) -> usize {
        self.in_channels / self.config.groups
    }

    /// Output channels a group.
    pub fn group_out(&self) -> usize {
        self.out_channels / self.config.groups
    }

    pub fn kernel_positions(&self) -> usize {
        self.kernel_h * self.kernel_w
    }

    pub fn input_len(&self) -> usize {
        self.batch * self.in_h * self.in_w * self.in_channels
    }

    pub fn output_len(&self) -> usize {
        self.batch * self.out_h * self.out_w * self.out_channels
    }

    pub fn weight_len(&self) -> usize {
        self.out_channels * self.group_in() * self.kernel_positions()
    }
}
