//! Sizes and settings of a convolution.

use std::ops::Range;

/// The settings of a 2-D convolution, the same for height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Input pixels from one output pixel to the next.
    pub stride: usize,
    /// Zeros added on each side of the input.
    pub padding: usize,
    /// Input pixels from one kernel position to the next.
    pub dilation: usize,
    /// Independent groups of channels: 1 is a dense convolution, as many groups as channels a depthwise one.
    pub groups: usize,
}

impl Default for Conv2dConfig {
    fn default() -> Self {
        Conv2dConfig { stride: 1, padding: 0, dilation: 1, groups: 1 }
    }
}

/// The sizes of one convolution: input (N, H, W, Cin), weight (Cout, Cin/groups, kh, kw), output (N, H', W', Cout).
///
/// Kernels trust that the sizes fit each other: both channel counts are multiples of the groups, and
/// `out = (in + 2·padding - dilation·(kernel - 1) - 1) / stride + 1` holds for height and width.
#[derive(Debug, Clone, Copy)]
pub struct ConvShape {
    /// The batch size N.
    pub batch: usize,
    /// The number of input channels Cin.
    pub in_channels: usize,
    /// The height H of the input.
    pub in_h: usize,
    /// The width W of the input.
    pub in_w: usize,
    /// The number of output channels Cout.
    pub out_channels: usize,
    /// The height H' of the output.
    pub out_h: usize,
    /// The width W' of the output.
    pub out_w: usize,
    /// The height kh of the kernel.
    pub kernel_h: usize,
    /// The width kw of the kernel.
    pub kernel_w: usize,
    /// Stride, padding, dilation and groups.
    pub config: Conv2dConfig,
}

impl ConvShape {
    /// The sizes of a convolution of `[N, H, W, Cin]` by kernels of `[kh, kw]` to `out_channels`.
    ///
    /// # Panics
    /// If the groups do not divide both channel counts, the stride or dilation is zero, or the kernel is larger than the
    /// padded input.
    pub fn new(
        [batch, in_h, in_w, in_channels]: [usize; 4],
        out_channels: usize,
        [kernel_h, kernel_w]: [usize; 2],
        config: Conv2dConfig,
    ) -> Self {
        let Conv2dConfig { stride, padding, dilation, groups } = config;
        assert!(in_channels.is_multiple_of(groups) && out_channels.is_multiple_of(groups));
        assert!(stride > 0 && dilation > 0);
        let output = |side: usize, kernel: usize| {
            let extent = dilation * (kernel - 1) + 1;
            assert!(
                extent <= side + 2 * padding,
                "a kernel of {extent} pixels on {side} padded by {padding}"
            );
            (side + 2 * padding - extent) / stride + 1
        };
        ConvShape {
            batch,
            in_channels,
            in_h,
            in_w,
            out_channels,
            out_h: output(in_h, kernel_h),
            out_w: output(in_w, kernel_w),
            kernel_h,
            kernel_w,
            config,
        }
    }

    /// The number of input channels per group.
    pub fn group_in(&self) -> usize {
        self.in_channels / self.config.groups
    }

    /// The number of output channels per group.
    pub fn group_out(&self) -> usize {
        self.out_channels / self.config.groups
    }

    /// The number of kernel positions, height times width.
    pub fn kernel_positions(&self) -> usize {
        self.kernel_h * self.kernel_w
    }

    /// The number of elements of the input, N·H·W·Cin.
    pub fn input_len(&self) -> usize {
        self.batch * self.in_h * self.in_w * self.in_channels
    }

    /// The number of elements of the output, N·H'·W'·Cout.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_h * self.out_w * self.out_channels
    }

    /// The number of elements of the weight, Cout·(Cin/groups)·kh·kw.
    pub fn weight_len(&self) -> usize {
        self.out_channels * self.group_in() * self.kernel_positions()
    }
}

/// The source pixels of pooling window `i` along a side of `len` pixels. Windows are `kernel` pixels wide and `stride`
/// apart, and the first starts `padding` pixels before the map.
pub fn pool_window(i: usize, len: usize, kernel: usize, stride: usize, padding: usize) -> Range<usize> {
    let start = i * stride;
    start.saturating_sub(padding)..(start + kernel).saturating_sub(padding).min(len)
}
