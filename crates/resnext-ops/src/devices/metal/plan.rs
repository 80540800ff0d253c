//! Launches of the kernels in `grouped.metal`: sizes, threadgroups, threadgroup memory.

use resnext_kernels::{Conv2dConfig, ConvShape};

/// The kernels' source.
pub(crate) const SOURCE: &str = include_str!("grouped.metal");

// The same constants as in `grouped.metal`.
const LANES: usize = 32;
const COLUMNS: usize = 8;
const ROWS: usize = 4;
const SLOTS: usize = 8;

/// The number of threadgroups that the weight gradient aims at: enough for any GPU, and few enough that their
/// partial sums stay small.
const WEIGHT_THREADGROUPS: usize = 256;

/// The kernels' `Sizes`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    batch: i32,
    in_h: i32,
    in_w: i32,
    out_h: i32,
    out_w: i32,
    groups: i32,
    group_in: i32,
    group_out: i32,
    stride: i32,
    padding: i32,
    tile_groups: i32,
    chunks: i32,
    blocks: i32,
}

#[cfg(test)]
impl Sizes {
    /// The bytes of the structure.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let Sizes { batch, in_h, in_w, out_h, out_w, groups, group_in, group_out, .. } = *self;
        let Sizes { stride, padding, tile_groups, chunks, blocks, .. } = *self;
        let all = [
            batch,
            in_h,
            in_w,
            out_h,
            out_w,
            groups,
            group_in,
            group_out,
            stride,
            padding,
            tile_groups,
            chunks,
            blocks,
        ];
        assert_eq!(size_of_val(&all), size_of::<Sizes>());
        all.iter().flat_map(|value| value.to_ne_bytes()).collect()
    }
}

/// One launch of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Launch {
    /// The kernel's name without its type suffix.
    pub(crate) kernel: &'static str,
    pub(crate) threadgroups: [usize; 3],
    pub(crate) threads: [usize; 3],
    /// Bytes of threadgroup memory.
    pub(crate) memory: usize,
}

/// The launches of a convolution and its gradients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    shape: ConvShape,
    tile_groups: usize,
    chunks: usize,
    blocks: usize,
}

impl Plan {
    /// The plan for a convolution, if the kernels compute it: 3×3, stride 1 or 2, not dilated, at most 32
    /// channels per group, not empty.
    pub(crate) fn new(shape: &ConvShape) -> Option<Self> {
        let Conv2dConfig { stride, padding, dilation, groups } = shape.config;
        let width = shape.group_in().max(shape.group_out());
        let fits = (shape.kernel_h, shape.kernel_w, dilation) == (3, 3, 1)
            && matches!(stride, 1 | 2)
            && padding < 1 << 15
            && width <= LANES;
        // Offsets inside an image or the weight are 32 bits.
        let small = [shape.batch, shape.in_h, shape.in_w, shape.out_h, shape.out_w, shape.weight_len()];
        if !fits || small.iter().any(|&size| size >= 1 << 30) || shape.input_len() * shape.output_len() == 0 {
            return None;
        }
        let tile_groups = (LANES / width).min(groups);
        let chunks = groups.div_ceil(tile_groups);
        let tiles = shape.batch * shape.out_h.div_ceil(ROWS) * shape.out_w.div_ceil(COLUMNS);
        let blocks = (WEIGHT_THREADGROUPS / chunks).clamp(1, tiles);
        (tiles < 1 << 30).then_some(Plan { shape: *shape, tile_groups, chunks, blocks })
    }

    /// The sizes that all kernels get.
    pub(crate) fn sizes(&self) -> Sizes {
        let ConvShape { batch, in_h, in_w, out_h, out_w, config, .. } = self.shape;
        // `new` has checked that they fit.
        let size = |value: usize| value as i32;
        Sizes {
            batch: size(batch),
            in_h: size(in_h),
            in_w: size(in_w),
            out_h: size(out_h),
            out_w: size(out_w),
            groups: size(config.groups),
            group_in: size(self.shape.group_in()),
            group_out: size(self.shape.group_out()),
            stride: size(config.stride),
            padding: size(config.padding),
            tile_groups: size(self.tile_groups),
            chunks: size(self.chunks),
            blocks: size(self.blocks),
        }
    }

    pub(crate) fn forward(&self) -> Launch {
        let ConvShape { out_h, out_w, config, .. } = self.shape;
        let tile = ((ROWS - 1) * config.stride + 3) * ((COLUMNS - 1) * config.stride + 3);
        self.over_pixels("grouped_forward", (out_h, out_w), tile)
    }

    pub(crate) fn input_gradient(&self) -> Launch {
        let ConvShape { in_h, in_w, config, .. } = self.shape;
        let reached = |side: usize| (side + config.stride) / config.stride + 1;
        self.over_pixels("grouped_input_gradient", (in_h, in_w), reached(ROWS) * reached(COLUMNS))
    }

    fn over_pixels(&self, kernel: &'static str, (h, w): (usize, usize), tile: usize) -> Launch {
        Launch {
            kernel,
            threadgroups: [w.div_ceil(COLUMNS), h.div_ceil(ROWS), self.shape.batch * self.chunks],
            threads: [LANES, ROWS, 1],
            memory: tile * LANES * size_of::<f32>(),
        }
    }

    /// Writes [`Self::partial_len`] partial sums for [`Self::add_blocks`].
    pub(crate) fn weight_gradient(&self) -> Launch {
        let tile = self.forward().memory + ROWS * COLUMNS * LANES * size_of::<f32>();
        Launch {
            kernel: "grouped_weight_gradient",
            threadgroups: [self.chunks, self.blocks, 1],
            threads: [LANES, SLOTS, 1],
            memory: tile,
        }
    }

    /// The number of f32 partial sums between the weight gradient's two launches.
    pub(crate) fn partial_len(&self) -> usize {
        self.blocks * self.shape.weight_len()
    }

    pub(crate) fn add_blocks(&self) -> Launch {
        const THREADS: usize = 256;
        Launch {
            kernel: "grouped_add_blocks",
            threadgroups: [self.shape.weight_len().div_ceil(THREADS), 1, 1],
            threads: [THREADS, 1, 1],
            memory: 0,
        }
    }
}
