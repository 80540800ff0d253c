//! The walk over rows of maps that the grouped 3×3 kernels share.

use crate::shape::ConvShape;
use crate::simd::dispatch::{Isa, lanes};
use crate::simd::traits::{Element, Simd};
use crate::threads::team::ThreadTeam;
use crate::train::packing::PixelRun;
use crate::winograd::Tiling;
use std::hint::black_box;
use std::ops::Range;

/// The most bytes of planes per task, unless one output row needs more: less than half of a core's cache.
const TASK_BYTES: usize = 400 << 10;

/// Whether these kernels support a convolution: 3×3 with padding 1 and stride 1 or 2, and groups with as many outputs as
/// inputs, which are 4, 8 or whole vectors.
pub fn supports<T: Element>(isa: Isa, shape: &ConvShape) -> bool {
    let lanes = lanes::<T>(isa);
    let (width, config) = (shape.group_in(), shape.config);
    let spanning = width < lanes && matches!(width, 4 | 8);
    shape.kernel_h == 3
        && shape.kernel_w == 3
        && width == shape.group_out()
        && shape.in_channels.is_multiple_of(lanes)
        && (spanning || width.is_multiple_of(lanes))
        && config.padding == 1
        && config.dilation == 1
        && config.stride <= 2
        && shape.in_h.min(shape.in_w) >= config.stride
}

/// The part of the output that one task computes.
pub struct MapPart {
    pub images: Range<usize>,
    pub rows: Range<usize>,
    pub channels: Range<usize>,
}

/// A forward pass through 3×3 windows, from maps of one size to maps of another.
pub struct Walk {
    pub batch: usize,
    /// Height and width of the source maps in memory.
    pub src: (usize, usize),
    /// Pixels from one source pixel to the next in the maps that the windows see; zeros are in between.
    pub upsampling: usize,
    /// Height and width of the maps that the windows see, without their border of one.
    pub seen: (usize, usize),
    pub dst: (usize, usize),
    pub stride: usize,
    pub channels: usize,
    /// Channels per group.
    pub group: usize,
}

impl Walk {
    /// The forward pass.
    pub fn forward(shape: &ConvShape) -> Self {
        Walk {
            batch: shape.batch,
            src: (shape.in_h, shape.in_w),
            upsampling: 1,
            seen: (shape.in_h, shape.in_w),
            dst: (shape.out_h, shape.out_w),
            stride: shape.config.stride,
            channels: shape.in_channels,
            group: shape.group_in(),
        }
    }

    /// From the output's gradient to the input's. A stride is a stride of 1 over an upsampled gradient: outputs that the
    /// stride skips have gradient zero.
    pub fn backward(shape: &ConvShape) -> Self {
        Walk {
            src: (shape.out_h, shape.out_w),
            upsampling: shape.config.stride,
            dst: (shape.in_h, shape.in_w),
            stride: 1,
            ..Walk::forward(shape)
        }
    }

    /// Output rows per task of `channels`, a multiple of `unit`. It depends on the sizes alone, because sinks sum over tasks.
    pub fn rows(&self, channels: usize, element: usize, unit: usize) -> usize {
        let row = (self.seen.1 + 3) * channels * element;
        let most = (TASK_BYTES / row).saturating_sub(2) / self.stride;
        let parts = self.dst.0.div_ceil(most.max(1));
        self.dst.0.div_ceil(parts).next_multiple_of(unit)
    }

    /// Tasks of an image and output rows, multiples of `unit` except for the last.
    pub fn tasks(&self, channels: usize, element: usize, unit: usize) -> Vec<(usize, Range<usize>)> {
        let rows = self.rows(channels, element, unit).max(1);
        let of_image = |n| (0..self.dst.0).step_by(rows).map(move |y| (n, y..self.dst.0.min(y + rows)));
        (0..self.batch).flat_map(of_image).collect()
    }

    /// Tasks of some channels, whole vectors and groups, and all rows of some images: a task reads its weights once for all
    /// these pixels.
    pub fn shares(&self, element: usize, lanes: usize) -> Vec<MapPart> {
        let all = 0..self.dst.0;
        let unit = self.group.max(lanes);
        let bytes = self.height(&all) * self.places() * unit * element;
        let batches = self.batch.div_ceil((TASK_BYTES / bytes).max(1)).max(1);
        let images = self.batch.div_ceil(batches).max(1);
        // Several tasks per thread, as threads may not start at once; results do not depend on it.
        let most = self.channels / unit / (4 * ThreadTeam::size());
        let width = (TASK_BYTES / (images * bytes)).min(most).max(1) * unit;
        let of_channels = |c| {
            let images = (0..self.batch).step_by(images).map(move |n| n..self.batch.min(n + images));
            images.map(move |images| MapPart {
                images,
                rows: 0..self.dst.0,
                channels: c..self.channels.min(c + width),
            })
        };
        (0..self.channels).step_by(width).flat_map(of_channels).collect()
    }

    /// Rows that the windows of output rows `rows` see.
    pub fn height(&self, rows: &Range<usize>) -> usize {
        (rows.len() - 1) * self.stride + 3
    }

    /// The first row that the windows of output row `y` see, counted without the border.
    pub fn top(&self, y: usize) -> isize {
        (y * self.stride) as isize - 1
    }

    /// The row in memory of a row that windows see; `None` for a row of zeros.
    pub fn row(&self, y: isize) -> Option<usize> {
        let y = usize::try_from(y).ok().filter(|&y| y < self.seen.0 && y.is_multiple_of(self.upsampling))?;
        Some(y / self.upsampling).filter(|&row| row < self.src.0)
    }

    /// Places per row of planes: the map, its border, and one for a stride's last step.
    pub fn places(&self) -> usize {
        self.seen.1 + 3
    }

    /// The tiles of output rows `rows` of some images, in the planes that [`runs`](Self::runs) fills.
    pub fn tiling(&self, images: usize, rows: &Range<usize>, lanes: usize) -> Tiling {
        let height = self.height(rows);
        let exists = |i: usize| i < height && self.row(self.top(rows.start) + i as isize).is_some();
        // Rows of zeros are not packed, but every packed row starts with a zero.
        let zeros = (0..height).find(|&i| exists(i)).unwrap_or(0) * self.places();
        let place = |y: usize, x: usize| if exists(y) { y * self.places() + x } else { zeros };
        let mut tiling = Tiling::default();
        for image in 0..images {
            let first = image * height * self.places();
            tiling.add((rows.len(), self.dst.1), |y, x| (first + place(y, x)) * lanes);
        }
        tiling
    }

    /// The runs that pack the rows that output rows `rows` of `images` see, one image after the other.
    pub fn runs(&self, images: Range<usize>, rows: &Range<usize>) -> Vec<PixelRun> {
        let mut runs = Vec::new();
        let seen = self.top(rows.start)..self.top(rows.end - 1) + 3;
        for (i, (n, y)) in images.flat_map(|n| seen.clone().map(move |y| (n, y))).enumerate() {
            let to = i * self.places();
            // Rows of zeros are never read.
            let Some(row) = self.row(y) else { continue };
            let first = (n * self.src.0 + row) * self.src.1;
            if self.upsampling > 1 {
                runs.push(PixelRun { to, count: self.places(), to_step: 1, from: None });
            } else {
                runs.push(PixelRun { to, count: 1, to_step: 1, from: None });
                runs.push(PixelRun { to: to + self.src.1 + 1, count: 2, to_step: 1, from: None });
            }
            let (to, count, to_step) = (to + 1, self.src.1, self.upsampling);
            runs.push(PixelRun { to, count, to_step, from: Some((first, 1)) });
        }
        runs
    }
}

/// The source vectors that an output vector reads, and the channels of each that reach a lane.
pub fn sources(group: usize, lanes: usize) -> (usize, usize) {
    if group < lanes { (1, group) } else { (group / lanes, lanes) }
}

/// The permutation that brings every lane channel `c` of its group of `DEPTH`. It is opaque to the compiler, which would
/// split a known permutation into two shuffles, and run out of registers for their results.
///
/// # Safety
/// The CPU has `S`'s instructions.
#[inline(always)]
pub unsafe fn group_index<S: Simd, const DEPTH: usize>(c: usize) -> S::Index {
    let c = black_box(c);
    // SAFETY: passed on; the index is below the vector's length.
    unsafe { S::index(|lane| lane.checked_div(DEPTH).map_or(0, |group| group * DEPTH + c % DEPTH.max(1))) }
}

/// Channel `c` of a source pixel's vector at `x`, in every lane: of the lane's own group of `DEPTH` channels, which
/// `lane_indices` permutes ([`group_index`]), or with `DEPTH` 0 of the one group.
///
/// # Safety
/// The CPU has `S`'s instructions; the vector can be read, and `c` is below the depth.
#[inline(always)]
pub unsafe fn bring<S: Simd, const DEPTH: usize>(
    x: *const S::T,
    c: usize,
    lane_indices: &[S::Index],
) -> S::V {
    // SAFETY: the function's contract.
    unsafe {
        match DEPTH {
            0 => S::splat(x.add(c)),
            4 if const { S::HAS_BROADCAST4 } => match c {
                0 => S::load_broadcast4::<0>(x),
                1 => S::load_broadcast4::<1>(x),
                2 => S::load_broadcast4::<2>(x),
                _ => S::load_broadcast4::<3>(x),
            },
            _ => S::permute(S::load(x), lane_indices[c]),
        }
    }
}
