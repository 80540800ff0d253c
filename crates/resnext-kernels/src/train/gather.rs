//! Which source pixel each kernel position ("tap") of each destination pixel reads.
//!
//! The forward pass and the gradient of the input are the same walk: each destination pixel gathers from a few source
//! pixels, with source and destination exchanged. A stride splits the gradient's walk into `stride²` phases, each with a
//! constant set of taps.

use crate::shape::{Conv2dConfig, ConvShape};

/// A walk over all destination pixels.
#[derive(Debug)]
pub struct Gather {
    pub batch: usize,
    /// Height and width of the source maps.
    pub src: (usize, usize),
    /// Height and width of the destination maps.
    pub dst: (usize, usize),
    pub phases: Vec<Phase>,
}

/// The destination pixels `origin + step·(i, j)`, which have the same taps.
#[derive(Debug)]
pub struct Phase {
    origin: (usize, usize),
    step: usize,
    size: (usize, usize),
    src_step: usize,
    pub taps: Vec<Tap>,
}

/// A kernel position, which reads source pixel `src_step·(i, j) + (dy, dx)`.
#[derive(Debug, Clone, Copy)]
pub struct Tap {
    /// Its index in the kernel, row-major.
    pub index: usize,
    dy: isize,
    dx: isize,
}

/// Marks a tap that falls outside the map and reads zeros.
pub const OUTSIDE: usize = usize::MAX;

impl Gather {
    /// The forward pass: output pixels gather from the input.
    pub fn forward(shape: &ConvShape) -> Self {
        let Conv2dConfig { stride, padding, dilation, .. } = shape.config;
        let taps = each_tap(shape, |ky, kx| {
            let dy = (ky * dilation) as isize - padding as isize;
            let dx = (kx * dilation) as isize - padding as isize;
            Some((dy, dx))
        });
        Gather {
            batch: shape.batch,
            src: (shape.in_h, shape.in_w),
            dst: (shape.out_h, shape.out_w),
            phases: vec![Phase {
                origin: (0, 0),
                step: 1,
                size: (shape.out_h, shape.out_w),
                src_step: stride,
                taps,
            }],
        }
    }

    /// The gradient of the input: input pixels gather from the output's gradient.
    pub fn backward(shape: &ConvShape) -> Self {
        let Conv2dConfig { stride, padding, dilation, .. } = shape.config;
        let mut phases = Vec::new();
        for py in 0..stride.min(shape.in_h) {
            for px in 0..stride.min(shape.in_w) {
                // Input pixel y = py + stride·i was read by output pixel (y + padding - ky·dilation) / stride if that is
                // an integer; then it is i plus a constant of the phase.
                let source = |p: usize, k: usize| {
                    let at = (p + padding) as isize - (k * dilation) as isize;
                    (at.rem_euclid(stride as isize) == 0).then(|| at.div_euclid(stride as isize))
                };
                let taps = each_tap(shape, |ky, kx| Some((source(py, ky)?, source(px, kx)?)));
                phases.push(Phase {
                    origin: (py, px),
                    step: stride,
                    size: ((shape.in_h - py).div_ceil(stride), (shape.in_w - px).div_ceil(stride)),
                    src_step: 1,
                    taps,
                });
            }
        }
        Gather { batch: shape.batch, src: (shape.out_h, shape.out_w), dst: (shape.in_h, shape.in_w), phases }
    }
}

fn each_tap(shape: &ConvShape, place: impl Fn(usize, usize) -> Option<(isize, isize)>) -> Vec<Tap> {
    (0..shape.kernel_positions())
        .filter_map(|index| {
            let (dy, dx) = place(index / shape.kernel_w, index % shape.kernel_w)?;
            Some(Tap { index, dy, dx })
        })
        .collect()
}

impl Gather {
    /// Pixels of `phase` in the whole batch.
    pub fn pixels(&self, phase: &Phase) -> usize {
        self.batch * phase.size.0 * phase.size.1
    }

    /// Calls `visit(k, dst, origin)` for the `count` pixels of `phase` from `first` on: `k` counts from 0, `dst` is the
    /// destination pixel's index, and `origin` the image and source pixel that its taps are relative to.
    fn walk(
        &self,
        phase: &Phase,
        first: usize,
        count: usize,
        mut visit: impl FnMut(usize, usize, (usize, isize, isize)),
    ) {
        let (rows, cols) = phase.size;
        let (mut n, rest) = (first / (rows * cols), first % (rows * cols));
        let (mut i, mut j) = (rest / cols, rest % cols);
        for k in 0..count {
            let y = phase.origin.0 + phase.step * i;
            let x = phase.origin.1 + phase.step * j;
            let at = ((phase.src_step * i) as isize, (phase.src_step * j) as isize);
            visit(k, (n * self.dst.0 + y) * self.dst.1 + x, (n, at.0, at.1));
            j += 1;
            if j == cols {
                j = 0;
                i += 1;
                if i == rows {
                    i = 0;
                    n += 1;
                }
            }
        }
    }

    fn source(&self, tap: Tap, (n, y, x): (usize, isize, isize)) -> usize {
        let (y, x) = (y + tap.dy, x + tap.dx);
        if y < 0 || x < 0 || y as usize >= self.src.0 || x as usize >= self.src.1 {
            return OUTSIDE;
        }
        (n * self.src.0 + y as usize) * self.src.1 + x as usize
    }

    /// For `count` pixels of `phase` from `first` on, fills `dst` with the destination pixels and `src`, `[pixel][tap]`, with
    /// the source pixels they read.
    pub fn block(
        &self,
        phase: &Phase,
        first: usize,
        count: usize,
        dst: &mut Vec<usize>,
        src: &mut Vec<usize>,
    ) {
        dst.clear();
        src.clear();
        self.walk(phase, first, count, |_, d, at| {
            dst.push(d);
            src.extend(phase.taps.iter().map(|&tap| self.source(tap, at)));
        });
    }
}
