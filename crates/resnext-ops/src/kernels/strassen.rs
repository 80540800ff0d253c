//! Dense 1×1 convolutions of f32 in seven eighths of the multiplications: Strassen's algorithm as improved by Winograd
//! (1971), one level of it.
//!
//! Pixels × channels are cut into quarters, half of the pixels and half of the channels each, and so are weights and
//! output. Seven products of sums of quarters, added up, are the eight products of quarters. The sums of weights are
//! packed once; those of pixels are made for a block at a time, in a core's cache.
//!
//! Each pixel meets one other of its image. Rounding errors are relative to the larger of the two's values, and NaN or
//! infinity in one reaches the other; what is near the largest f32 may overflow.

use super::lines::{Lines, spread};
use super::packed::{Filter, Packed, Panel};
use super::packed_conv::{Fetches, Job, Pixels, STEP, TILE, fetch_output, strips};
use super::shared::SharedMut;
use super::simd::Simd;
use super::tiles::sum_products;
use super::words::{MAX_LANES, V, Word, WordKernel, Words};
use crate::crew::Crew;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which half of the pixels and which of the channels; of weights, of the input's and the output's channels.
type Quarter = (usize, usize);

/// What is multiplied with weights.
#[derive(Clone, Copy)]
enum Left {
    /// A quarter X11 to X22, in place.
    X(Quarter),
    /// S1 = X21 + X22, S2 = S1 - X11, S3 = X11 - X21, S4 = X12 - S2, counted from 0.
    S(usize),
}

struct Product {
    left: Left,
    /// How often each quarter of the weights is in their sum: W11, W12, W21, W22.
    weights: [f32; 4],
    /// Where it is added, with the products before it in its chain.
    out: &'static [Quarter],
}

/// Products that are added up in registers. The first chain is the first to write each quarter of the output, and those
/// after it are the last.
static CHAINS: [&[Product]; 4] = [
    &[
        Product { left: Left::X((0, 0)), weights: [1.0, 0.0, 0.0, 0.0], out: &[(0, 0)] },
        Product { left: Left::S(1), weights: [1.0, -1.0, 0.0, 1.0], out: &[(0, 1)] },
        Product { left: Left::S(2), weights: [0.0, -1.0, 0.0, 1.0], out: &[(1, 0), (1, 1)] },
    ],
    &[
        Product { left: Left::S(0), weights: [-1.0, 1.0, 0.0, 0.0], out: &[(1, 1)] },
        Product { left: Left::S(3), weights: [0.0, 0.0, 0.0, 1.0], out: &[(0, 1)] },
    ],
    &[Product { left: Left::X((1, 1)), weights: [-1.0, 1.0, 1.0, -1.0], out: &[(1, 0)] }],
    &[Product { left: Left::X((0, 1)), weights: [0.0, 0.0, 1.0, 0.0], out: &[(0, 0)] }],
];
const PRODUCTS: usize = 7;

/// The most pixels of a block, whose halves are added. How an image is parted depends on its size alone.
const BLOCK: usize = 98;

/// Whether a convolution is computed this way: sums of few channels take as long as they save, and packed weights are
/// 7/4 of plain ones, which is too much of the largest.
pub(super) fn suits(words: Words, filter: &Filter) -> bool {
    let Filter { groups, in_place, group_in, group_out, .. } = *filter;
    matches!(words, Words::F32(_))
        && groups == 1
        && in_place
        && group_in >= LEAST_INPUTS
        && group_in.is_multiple_of(2 * MAX_LANES)
        && group_out.is_multiple_of(4 * MAX_LANES)
        && group_in * group_out <= MOST_WEIGHTS
}

const LEAST_INPUTS: usize = 256;
const MOST_WEIGHTS: usize = 1 << 20;

/// Panels of two vectors of each half of the output's channels. Weights lie as `[product][input channel][2 · LANES]`.
pub(super) fn panels(words: Words, filter: &Filter) -> Vec<Panel> {
    let (lanes, _) = words.tile();
    let (depth, width) = (filter.group_in / 2, 2 * lanes);
    let size = PRODUCTS * depth * width;
    (0..filter.group_out / 2 / width)
        .map(|i| Panel {
            weights: i * size..(i + 1) * size,
            bias: i * 2 * width..(i + 1) * 2 * width,
            src_word: 0,
            dst_channel: i * width,
            width,
            vectors: 2,
            depth,
            spanning: false,
        })
        .collect()
}

/// Writes a panel's weights.
pub(super) fn fill(panel: &Panel, values: &mut [f32], filter: &Filter) {
    let Panel { depth, width, .. } = *panel;
    // In blocks of input channels that keep both sides in the nearest cache.
    for first in (0..depth).step_by(MAX_LANES) {
        for l in 0..width {
            let quarter = |input: usize, output: usize| -> [f32; MAX_LANES] {
                let k = output * filter.group_out / 2 + panel.dst_channel + l;
                std::array::from_fn(|c| (filter.weight)(0, k, input * depth + first + c, 0))
            };
            let quarters = [quarter(0, 0), quarter(0, 1), quarter(1, 0), quarter(1, 1)];
            for (i, product) in CHAINS.iter().copied().flatten().enumerate() {
                for c in 0..MAX_LANES {
                    let sum = (0..4).map(|q| product.weights[q] * quarters[q][c]).sum();
                    values[(i * depth + first + c) * width + l] = sum;
                }
            }
        }
    }
}

/// Neighbouring pixels of an image, in two halves, of which the second may lack one.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    halves: [usize; 2],
}

impl Block {
    fn new(number: usize, image: usize) -> Self {
        let blocks = image.div_ceil(BLOCK);
        let bound = |block: usize| image * block / blocks;
        let (start, end) = (bound(number % blocks), bound(number % blocks + 1));
        let pixels = end - start;
        Block { first: number / blocks * image + start, halves: [pixels.div_ceil(2), pixels / 2] }
    }
}

/// S1 to S4 of a block of pixels, `[sum][pixel of a half][channel of a half]`.
#[derive(Default)]
struct Sums {
    /// Of which job, and which block of it.
    of: (u64, usize),
    values: Lines,
    /// From one pixel to the next.
    stride: usize,
    /// In place of a pixel that is not there.
    zeros: Lines,
}

thread_local! {
    /// Kept, as maps are: a few hundred KB. Tasks of a block follow each other on a thread.
    static SUMS: RefCell<Sums> = RefCell::default();
}

/// From 1: new sums are of job 0.
static JOBS: AtomicU64 = AtomicU64::new(1);

/// Computes all output pixels of a job.
pub(super) fn run(packed: &Packed, crew: &Crew, job: Job) {
    let Job { src, residual, relu, count, image, out, out_stride, ahead, .. } = job;
    let number = JOBS.fetch_add(1, Ordering::Relaxed);
    let blocks = count.checked_div(image).unwrap_or(0) * image.div_ceil(BLOCK);
    let parts = (16 * crew.threads() / blocks.max(1)).clamp(1, packed.panels.len());
    let out = &SharedMut::new(out);
    let panels = |task: usize| {
        let bound = |part: usize| packed.panels.len() * part / parts;
        bound(task % parts)..bound(task % parts + 1)
    };
    crew.for_each(blocks * parts, |i| {
        let block = Block::new(i / parts, image);
        let steps = PRODUCTS * block.halves[0].div_ceil(TILE) * packed.panels[0].depth.div_ceil(STEP);
        let fetches = packed.fetches((i, blocks * parts), panels, steps, ahead);
        SUMS.with_borrow_mut(|sums| {
            let mut task = Task { packed, block, src, sums, residual, relu, out, out_stride, fetches };
            if task.sums.of != (number, i / parts) {
                task.sum();
                task.sums.of = (number, i / parts);
            }
            for panel in &packed.panels[panels(i)] {
                for chain in 0..CHAINS.len() {
                    task.chain(panel, chain);
                }
            }
        });
    });
}

/// A block of pixels times some panels, on one thread.
struct Task<'a> {
    packed: &'a Packed,
    block: Block,
    src: Pixels<'a>,
    sums: &'a mut Sums,
    residual: Option<Pixels<'a>>,
    relu: bool,
    out: &'a SharedMut<'a, f32>,
    out_stride: usize,
    fetches: Fetches,
}

impl Task<'_> {
    /// Channels of a half.
    fn depth(&self) -> usize {
        self.packed.panels[0].depth
    }

    /// Makes S1 to S4.
    fn sum(&mut self) {
        let depth = self.depth();
        self.sums.stride = spread(depth);
        let len = 4 * self.block.halves[0] * self.sums.stride;
        if self.sums.values.len() < len {
            self.sums.values = Lines::zeros(len);
        }
        if self.sums.zeros.len() < depth {
            self.sums.zeros = Lines::zeros(depth);
        }
        self.packed.words.run(Add(self));
    }

    /// Where pixel `m` of a factor begins, and how far it is to the next one.
    #[inline(always)]
    fn left(&self, left: Left, m: usize) -> (*const f32, usize) {
        let (data, at, stride) = match left {
            Left::X((half, channels)) => {
                let pixel = self.block.first + half * self.block.halves[0] + m;
                let channel = channels * self.depth();
                (self.src.data, pixel * self.src.stride + channel, self.src.stride)
            }
            Left::S(sum) => {
                let stride = self.sums.stride;
                (&self.sums.values[..], (sum * self.block.halves[0] + m) * stride, stride)
            }
        };
        (data[at..].as_ptr(), stride)
    }

    fn chain(&self, panel: &Panel, chain: usize) {
        let words = self.packed.words;
        let (_, most) = words.tile();
        for (tile, pixels) in strips(0..self.block.halves[0], most) {
            let strip = Strip { task: self, panel, chain, pixels };
            match tile {
                TILE => words.run(Tiles::<TILE>(strip)),
                7 => words.run(Tiles::<7>(strip)),
                6 => words.run(Tiles::<6>(strip)),
                4 => words.run(Tiles::<4>(strip)),
                2 => words.run(Tiles::<2>(strip)),
                _ => words.run(Tiles::<1>(strip)),
            }
        }
    }
}

/// Adds quarters up, to S1 to S4.
struct Add<'a, 'b>(&'a mut Task<'b>);

impl WordKernel for Add<'_, '_> {
    #[inline(always)]
    unsafe fn run<W: Word>(self) {
        let Add(task) = self;
        let depth = task.depth();
        let (pixels, stride) = (task.block.halves[0], task.sums.stride);
        assert!(4 * pixels * stride <= task.sums.values.len());
        let sums = task.sums.values.as_mut_ptr();
        for m in 0..pixels {
            let x = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|quarter| match quarter {
                (1, _) if m == task.block.halves[1] => task.sums.zeros.as_ptr(),
                _ => task.left(Left::X(quarter), m).0,
            });
            let s = [0, 1, 2, 3].map(|sum| sums.wrapping_add((sum * pixels + m) * stride));
            // SAFETY: the CPU has W's instructions; rows have `depth` values, whole vectors.
            unsafe {
                for c in (0..depth).step_by(W::S::LANES) {
                    let x = x.map(|x| W::S::load(x.add(c)));
                    let s1 = W::S::add(x[2], x[3]);
                    let s2 = W::S::sub(s1, x[0]);
                    W::S::store(s[0].add(c), s1);
                    W::S::store(s[1].add(c), s2);
                    W::S::store(s[2].add(c), W::S::sub(x[0], x[2]));
                    W::S::store(s[3].add(c), W::S::sub(x[1], s2));
                }
            }
        }
    }
}

/// Pixels, as many as several tiles have, for a chain of products with a panel.
struct Strip<'a> {
    task: &'a Task<'a>,
    panel: &'a Panel,
    chain: usize,
    pixels: Range<usize>,
}

struct Tiles<'a, const M: usize>(Strip<'a>);

impl<const M: usize> WordKernel for Tiles<'_, M> {
    #[inline(always)]
    unsafe fn run<W: Word>(self) {
        let Strip { task, panel, chain, pixels } = &self.0;
        let size = panel.depth * panel.width;
        let before: usize = CHAINS[..*chain].iter().map(|chain| chain.len()).sum();
        let weights =
            &task.packed.weights[panel.weights.clone()][before * size..][..CHAINS[*chain].len() * size];
        for first in pixels.clone().step_by(M) {
            // SAFETY: the CPU has W's instructions; rows have the panel's depth, and so have its weights. In place of the
            // pixel that the second half may lack, the one behind it is read, as `Packed::run` allows; `put` drops it.
            unsafe {
                let mut acc = [[W::S::zero(); 2]; M];
                let mut weights = weights.as_ptr();
                for product in CHAINS[*chain] {
                    let (start, stride) = task.left(product.left, first);
                    let rows = std::array::from_fn(|m| start.add(m * stride));
                    let mut fetch = task.fetches.take(panel.depth.div_ceil(STEP));
                    let each = M.div_ceil(panel.depth / STEP);
                    let mut expected = first;
                    let meanwhile = || {
                        fetch.step();
                        let until = (expected + each).min(first + M);
                        for to in product.out {
                            self.expect(expected..until, *to);
                        }
                        expected = until;
                    };
                    sum_products::<W, M, 2>(&mut acc, rows, &mut weights, panel.depth, 0, meanwhile);
                    for to in product.out {
                        self.put::<W>(first, *to, &acc);
                    }
                }
            }
        }
    }
}

impl<const M: usize> Tiles<'_, M> {
    /// The channel and the pixel at which a tile begins in a quarter of the output, and how many pixels it has there.
    #[inline(always)]
    fn place(&self, first: usize, (half, channels): Quarter) -> (usize, usize, usize) {
        let Strip { task, panel, .. } = &self.0;
        let channel = channels * task.packed.out_channels / 2 + panel.dst_channel;
        let Block { first: start, halves } = task.block;
        (channel, start + half * halves[0] + first, M.min(halves[half] - first))
    }

    /// Fetches what [`put`](Self::put) will read and write of some pixels, early; chains after the first find it in the
    /// cache.
    #[inline(always)]
    fn expect(&self, pixels: Range<usize>, quarter: Quarter) {
        let Strip { task, panel, chain, .. } = &self.0;
        if *chain > 0 {
            return;
        }
        let (channel, pixel, _) = self.place(0, quarter);
        fetch_output!(task, pixel + pixels.start..pixel + pixels.end, channel..channel + panel.width, 1);
    }

    /// Writes bias, residual and the sums of the first chain to a quarter of the output; adds those of a later one, and
    /// applies ReLU.
    ///
    /// # Safety
    /// The CPU has W's instructions, the tile's pixels exist, and no other thread writes the panel's.
    #[inline(always)]
    unsafe fn put<W: Word>(&self, first: usize, quarter: Quarter, acc: &[[V<W>; 2]; M]) {
        const ZEROS: &[f32; 2 * MAX_LANES] = &[0.0; 2 * MAX_LANES];
        let Strip { task, panel, chain, .. } = &self.0;
        let (channel, pixel, count) = self.place(first, quarter);
        if count == 0 {
            return;
        }
        let lanes = W::S::LANES;
        let len = (count - 1) * task.out_stride + panel.width;
        let out = task.out.pointer(pixel * task.out_stride + channel, len);
        let bias = &task.packed.bias[panel.bias.clone()][quarter.1 * panel.width..];
        let (from, stride, bias) = match (chain, task.residual) {
            (0, Some(r)) => (r.data[pixel * r.stride + channel..].as_ptr(), r.stride, bias.as_ptr()),
            (0, None) => (ZEROS.as_ptr(), 0, bias.as_ptr()),
            _ => (out.cast_const(), task.out_stride, ZEROS.as_ptr()),
        };
        let least = if task.relu && *chain > 0 { &0.0 } else { &f32::NEG_INFINITY };
        // SAFETY: `Packed::run` checked output and residual.
        unsafe {
            let (least, bias) = (W::S::splat(least), [W::S::load(bias), W::S::load(bias.add(lanes))]);
            for m in 0..M {
                if m < count {
                    for v in 0..2 {
                        let y = W::S::add(W::S::load(from.add(m * stride + v * lanes)), bias[v]);
                        let y = W::S::max(W::S::add(acc[m][v], y), least);
                        W::S::store(out.add(m * task.out_stride + v * lanes), y);
                    }
                }
            }
        }
    }
}
