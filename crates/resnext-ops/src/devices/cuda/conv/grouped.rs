//! Grouped 3×3 convolution by `kernels/grouped3x3*.cu`: how images are cut into strips, and the shared memory
//! they take.

use crate::devices::cuda::conv::job::{Direction, Job};
use crate::devices::cuda::conv::weights;
use crate::devices::cuda::launch::Launch;
use crate::devices::cuda::memory::{aligned, uninitialised};
use crate::devices::cuda::settings::{multiprocessors, shared_memory, tf32};
use crate::devices::cuda::sources::{GROUPED, GROUPED_F32, GROUPED_WEIGHT, GROUPED_WEIGHT_F32, Module};
use candle_core::{CudaStorage, DType};

/// The channels per group that there are kernels for.
pub(crate) const GROUPS: [usize; 4] = [4, 8, 16, 32];

/// The bytes of each pixel's channels that a block works on.
const PIXEL: usize = 128;

/// The kernel for `dtype`: by tensor cores, which round f32 to TF32, or by FMA in f32.
pub(crate) fn module(
    direction: Direction,
    dtype: DType,
    weight: DType,
    group: usize,
    stride: usize,
    cores: bool,
) -> candle_core::Result<Module> {
    let module = match (direction, cores) {
        (Direction::Weight, false) => Module::new(&GROUPED_WEIGHT_F32),
        (Direction::Weight, true) => Module::new(&GROUPED_WEIGHT).define_type("ELEMENT", dtype)?,
        (_, false) => Module::new(&GROUPED_F32),
        (_, true) => Module::new(&GROUPED).define_type("ELEMENT", dtype)?.define_type("WEIGHT", weight)?,
    };
    let module = module.define("GROUP", group).define("STRIDE", stride);
    Ok(match direction {
        Direction::Weight => module,
        _ => module.define("GRADIENT", usize::from(direction == Direction::Input)),
    })
}

/// Whether tensor cores compute the job.
fn by_cores(job: &Job) -> bool {
    job.dtype != DType::F32 || tf32()
}

/// How windows move over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Walk {
    /// Pixels from one window to the next, pixels per side of a window, and pixels per side that it computes.
    step: usize,
    window: usize,
    spread: usize,
    /// Windows down and across an image.
    grid: (usize, usize),
}

impl Walk {
    fn new(job: &Job) -> Self {
        let (shape, stride) = (job.shape, job.shape.config.stride);
        match (job.direction, stride) {
            (Direction::Input, 2) => {
                // A window of the output's gradient makes 2×2 pixels of the input's.
                Walk { step: 1, window: 2, spread: 2, grid: (shape.in_h.div_ceil(2), shape.in_w.div_ceil(2)) }
            }
            (Direction::Input, _) => Walk { step: 1, window: 3, spread: 1, grid: (shape.in_h, shape.in_w) },
            _ => Walk { step: stride, window: 3, spread: 1, grid: (shape.out_h, shape.out_w) },
        }
    }
}

/// The strips that an image's windows are cut into: a block moves down one, `rows` rows at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Strips {
    height: usize,
    width: usize,
    rows: usize,
    /// Bytes of shared memory per block.
    shared: usize,
}

impl Strips {
    /// Cuts `walk` into enough strips that about `blocks` blocks have one each, with `others` images and
    /// channel chunks.
    fn new(
        walk: Walk,
        shared: impl Fn(&Strips) -> usize,
        most_shared: usize,
        others: usize,
        blocks: usize,
    ) -> Option<Self> {
        let (grid_h, grid_w) = walk.grid;
        // A warp computes 16 windows, and neighbouring strips both read two columns of pixels, so wide strips
        // are better.
        let mut most = 64 / walk.step;
        loop {
            let width = grid_w.div_ceil(grid_w.div_ceil(most));
            let rows = (64 / width).clamp(1, grid_h);
            let across = grid_w.div_ceil(width);
            // A segment reads two rows of its neighbours, so shorter ones than four times that are not worth
            // more blocks.
            let segments = (blocks / (others * across).max(1)).clamp(1, grid_h.div_ceil(8));
            let height = grid_h.div_ceil(segments).next_multiple_of(rows);
            let mut strips = Strips { height, width, rows, shared: 0 };
            strips.shared = shared(&strips);
            if strips.shared <= most_shared {
                return Some(strips);
            }
            if most <= 4 {
                return None;
            }
            most /= 2;
        }
    }

    fn count(&self, walk: &Walk) -> usize {
        walk.grid.0.div_ceil(self.height) * walk.grid.1.div_ceil(self.width)
    }

    /// The pixels in the ring of rows.
    fn ring(&self, walk: &Walk) -> usize {
        let rows = 2 * self.rows * walk.step + walk.window - walk.step;
        rows * ((self.width - 1) * walk.step + walk.window)
    }
}

/// Computes the job if these kernels are for its convolution; else returns `None`.
pub(super) fn try_compute(job: &Job) -> candle_core::Result<Option<CudaStorage>> {
    let (shape, config) = (job.shape, job.shape.config);
    let group = shape.group_in();
    let fits = (shape.kernel_h, shape.kernel_w) == (3, 3)
        && config.padding == 1
        && config.dilation == 1
        && config.stride <= 2
        && group == shape.group_out()
        && GROUPS.contains(&group)
        && shape.in_channels.is_multiple_of(16 / job.dtype.size_in_bytes())
        && shape.batch <= 65535;
    // Weights are read one element, feature maps 16 bytes at a time.
    let images: &[u64] =
        if job.direction == Direction::Weight { &[job.image, job.other] } else { &[job.image] };
    if !fits || !aligned(images) {
        return Ok(None);
    }
    match job.direction {
        Direction::Weight => weight_gradient(job),
        _ => convolve(job),
    }
}

fn convolve(job: &Job) -> candle_core::Result<Option<CudaStorage>> {
    let (device, shape, walk) = (job.device, job.shape, Walk::new(job));
    let (channels, group) = (shape.in_channels, shape.group_in());
    let cores = by_cores(job);
    let chunks = channels.div_ceil(PIXEL / job.dtype.size_in_bytes());
    let shared = |s: &Strips| {
        let weights = if cores { 0 } else { 9 * group * PIXEL };
        let staged = if cores { s.rows * s.width * walk.spread * walk.spread + 1 } else { 0 };
        weights + (s.ring(&walk) + staged) * PIXEL
    };
    let blocks = 4 * multiprocessors(device)?;
    let most = shared_memory(device)?;
    let Some(strips) = Strips::new(walk, shared, most, shape.batch * chunks, blocks) else { return Ok(None) };
    let count = strips.count(&walk);
    if count > 65535 {
        return Ok(None);
    }
    let sides = [(shape.in_h, shape.in_w), (shape.out_h, shape.out_w)];
    let [from, to] = if job.direction == Direction::Forward { sides } else { [sides[1], sides[0]] };
    let out = uninitialised(device, job.result_len(), job.dtype)?;
    let module = module(job.direction, job.dtype, job.weight_dtype, group, shape.config.stride, cores)?;
    let function = if cores { "grouped3x3" } else { "grouped3x3_f32" };
    let launch = Launch::new(device, module, function).pointer(job.image).pointer(job.other);
    let launch = launch.storage(&out)?.ints(&[
        channels,
        from.0,
        from.1,
        to.0,
        to.1,
        walk.grid.0,
        walk.grid.1,
        strips.height,
        strips.width,
        strips.rows,
    ])?;
    let threads = if job.dtype == DType::F32 || group >= 16 { 128 } else { 256 };
    // SAFETY: input, weight and output are as long as the shape says, `fits` is what the kernel supports, and
    // the shared memory is as large as its source says.
    unsafe { launch.enqueue([chunks, count, shape.batch], threads, strips.shared) }?;
    Ok(Some(out))
}

fn weight_gradient(job: &Job) -> candle_core::Result<Option<CudaStorage>> {
    let (device, shape, walk) = (job.device, job.shape, Walk::new(job));
    let (channels, group) = (shape.in_channels, shape.group_in());
    let cores = by_cores(job);
    let chunks = channels.div_ceil(PIXEL / job.dtype.size_in_bytes());
    let shared = |s: &Strips| {
        let pixels = (s.ring(&walk) + 2 * s.rows * s.width + 1) * PIXEL;
        if cores { pixels } else { pixels.max(24 * (group / 4) * 48 * 4) }
    };
    let most = shared_memory(device)?;
    // Blocks take several strips, so there is no need for short ones.
    let Some(strips) = Strips::new(walk, shared, most, shape.batch, 1) else { return Ok(None) };
    let units = strips.count(&walk) * shape.batch;
    // Every share writes all sums. There are twice as many shares as the device runs at once, fewer if that
    // is much to write.
    let machine = multiprocessors(device)?;
    let sums = channels * group * 9 * 4;
    let read = (shape.input_len() + shape.output_len()) * job.dtype.size_in_bytes();
    let cheap = read / 8 / sums.max(1);
    let shares = (2 * machine / chunks).min(cheap).max(machine.div_ceil(chunks)).clamp(1, units).min(65535);
    let parts = uninitialised(device, shares * shape.weight_len(), DType::F32)?;
    let function = if cores { "grouped3x3_weight" } else { "grouped3x3_weight_f32" };
    let module = module(job.direction, job.dtype, job.dtype, group, shape.config.stride, cores)?;
    let launch = Launch::new(device, module, function).pointer(job.other).pointer(job.image);
    let launch = launch.storage(&parts)?.ints(&[
        shape.batch,
        channels,
        shape.in_h,
        shape.in_w,
        shape.out_h,
        shape.out_w,
        strips.height,
        strips.width,
        strips.rows,
    ])?;
    let threads = match (job.dtype, cores) {
        (DType::F32, false) => 192,
        (DType::F32, true) => 128,
        _ => 256,
    };
    // SAFETY: as above; there is a part for every share.
    unsafe { launch.enqueue([chunks, shares, 1], threads, strips.shared) }?;
    Ok(Some(weights::sum_parts(device, &parts, shares, shape.weight_len(), job.weight_dtype)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strips cover every window of any image and fit the given shared memory.
    #[test]
    fn strips_cover_images_and_fit() {
        for side in [1, 2, 3, 7, 8, 14, 28, 33, 56, 112, 300, 1000] {
            for (step, window, spread) in [(1, 3, 1), (2, 3, 1), (1, 2, 2)] {
                for limit in [48 << 10, 99 << 10, 227 << 10] {
                    let walk = Walk { step, window, spread, grid: (side, side / 2 + 1) };
                    let shared =
                        |s: &Strips| (s.ring(&walk) + s.rows * s.width * spread * spread + 1) * PIXEL;
                    for (others, blocks) in [(1, 400), (64, 528), (10_000, 1)] {
                        let strips = Strips::new(walk, shared, limit, others, blocks).unwrap();
                        assert!(strips.shared <= limit, "{strips:?}");
                        assert!(strips.rows >= 1 && strips.rows <= strips.height);
                        assert!(strips.width <= walk.grid.1 && strips.height.is_multiple_of(strips.rows));
                        let across = walk.grid.1.div_ceil(strips.width);
                        assert!(
                            across * strips.width >= walk.grid.1 && (across - 1) * strips.width < walk.grid.1
                        );
                    }
                }
            }
        }
    }
}
