//! Convolution for inference: weights packed once, and bias, residual and ReLU while the sum is still in
//! registers.
//!
//! A register tile holds up to 14 pixels (two rows of a 7×7 map) times two vectors of output channels.
//! Activations are read in place, one broadcast a pixel and input channel. Where a group is narrower than
//! a vector, the vector spans several groups and the broadcast becomes a permute.

use super::lines::Lines;
use super::shared::{SharedMut, spans_groups};
use super::simd::{Isa, Kernel, Simd, run};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Weights in the order the kernel reads them.
#[derive(Debug)]
pub(crate) struct Packed {
    isa: Isa,
    taps: usize,
    /// Neighbouring taps whose weights lie beside each other, a channel: 3 for [`Neighbours`], or 1.
    columns: usize,
    out_channels: usize,
    panels: Vec<Panel>,
    /// One after another, all panels' `[tap][source channel][vectors · LANES]`, padded with zeros.
    weights: Lines,
    /// A panel's width each, padded with zeros.
    bias: Lines,
}

/// The weights of up to two vectors of output channels.
#[derive(Debug, Clone)]
struct Panel {
    /// Where its weights and biases begin.
    weights: usize,
    bias: usize,
    /// The first channel read of a source pixel, and written of an output pixel.
    src_channel: usize,
    dst_channel: usize,
    /// Channels written.
    width: usize,
    vectors: usize,
    /// Source channels an output channel sums over, a tap.
    depth: usize,
    /// Whether a vector spans several groups of `depth` channels.
    spanning: bool,
}

/// Where pixels lie: `pixel · stride` elements from the start.
#[derive(Clone, Copy)]
pub(crate) struct Pixels<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
}

/// What each output pixel reads.
#[derive(Clone, Copy)]
pub(crate) enum Sources<'a> {
    /// The source pixel of the same number.
    Same,
    /// Looked up.
    Table(&'a SourceTable),
}

/// For each output pixel and tap, the first element of the source pixel.
#[derive(Debug)]
pub(crate) struct SourceTable {
    offsets: Vec<u32>,
    /// The largest of them.
    farthest: usize,
    row: Option<Row>,
}

/// Rows of output pixels that lie `stride` source pixels apart, with taps that are neighbours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

impl SourceTable {
    pub(crate) fn new(offsets: Vec<u32>, row: Option<Row>) -> Self {
        let farthest = offsets.iter().copied().max().unwrap_or(0) as usize;
        SourceTable { offsets, farthest, row }
    }
}

/// One run of a packed convolution over `count` output pixels.
pub(crate) struct Job<'a> {
    pub(crate) src: Pixels<'a>,
    pub(crate) sources: Sources<'a>,
    pub(crate) residual: Option<Pixels<'a>>,
    pub(crate) relu: bool,
    pub(crate) count: usize,
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
}

/// Elements a vector, and pixels a tile.
fn lanes(isa: Isa) -> (usize, usize) {
    struct Lanes<'a>(&'a mut (usize, usize));
    impl Kernel<f32> for Lanes<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd<T = f32>>(self) {
            *self.0 = (S::LANES, S::TILE);
        }
    }
    let mut lanes = (0, 0);
    run(isa, Lanes(&mut lanes));
    lanes
}

impl Packed {
    /// Packs `weight(group, output channel, input channel, tap)` of a group each. Three `columns` want
    /// sources in rows.
    pub(crate) fn new(
        isa: Isa,
        groups: usize,
        (group_in, group_out): (usize, usize),
        (taps, columns): (usize, usize),
        weight: &(impl Fn(usize, usize, usize, usize) -> f32 + Sync),
        bias: &[f32],
    ) -> Self {
        let (lanes, _) = lanes(isa);
        let mut panels = Vec::new();
        let (mut weights, mut biases) = (0, 0);
        let spanning = spans_groups(lanes, groups, group_in, group_out);
        let (blocks, width) = if spanning { (1, groups * group_out) } else { (groups, group_out) };
        let step = if spanning || columns > 1 { lanes } else { 2 * lanes };
        for block in 0..blocks {
            for first in (0..width).step_by(step) {
                let panel_width = step.min(width - first);
                let vectors = panel_width.div_ceil(lanes);
                let dst_channel = block * group_out + first;
                let src_channel = if spanning { first } else { block * group_in };
                panels.push(Panel {
                    weights,
                    bias: biases,
                    src_channel,
                    dst_channel,
                    width: panel_width,
                    vectors,
                    depth: group_in,
                    spanning,
                });
                weights += taps * group_in * vectors * lanes;
                biases += vectors * lanes;
            }
        }
        let mut packed = Packed {
            isa,
            taps,
            columns,
            out_channels: groups * group_out,
            weights: Lines::zeros(weights),
            bias: Lines::zeros(biases),
            panels,
        };
        for panel in &packed.panels {
            let bias = &bias[panel.dst_channel..panel.dst_channel + panel.width];
            packed.bias[panel.bias..panel.bias + panel.width].copy_from_slice(bias);
        }
        let out = SharedMut::new(&mut packed.weights);
        packed.panels.par_iter().for_each(|panel| {
            let len = taps * panel.depth * panel.vectors * lanes;
            // SAFETY: panels' weights do not overlap.
            let values = unsafe { out.slice(panel.weights, len) };
            for (row, values) in values.chunks_exact_mut(panel.vectors * lanes).enumerate() {
                let (c, column) = (row / columns % panel.depth, row % columns);
                let tap = row / columns / panel.depth * columns + column;
                for (k, value) in values[..panel.width].iter_mut().enumerate() {
                    let channel = panel.dst_channel + k;
                    *value = weight(channel / group_out, channel % group_out, c, tap);
                }
            }
        });
        packed
    }

    /// Bytes of the packed weights.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.weights[..]) + size_of_val(&self.bias[..])
    }

    /// Computes all output pixels of a job.
    pub(crate) fn run(&self, job: Job) {
        let Job { src, sources, residual, relu, count, out, out_stride } = job;
        assert!(count == 0 || out.len() >= (count - 1) * out_stride + self.out_channels);
        assert!(
            residual.is_none_or(|r| count == 0 || r.data.len() >= (count - 1) * r.stride + self.out_channels)
        );
        let row = match sources {
            Sources::Table(SourceTable { row: Some(row), .. }) if self.columns > 1 => *row,
            _ => Row { width: usize::MAX, stride: 0 },
        };
        assert!(row.width > 0 && (self.columns == 1 || row.stride > 0));
        let reach = self.panels.iter().map(|p| p.src_channel + if p.spanning { p.width } else { p.depth });
        let reach = reach.max().unwrap_or(0);
        let last = match sources {
            Sources::Same => count.saturating_sub(1) * src.stride,
            Sources::Table(table) => {
                assert_eq!(table.offsets.len(), count * self.taps);
                table.farthest
            }
        };
        assert!(count == 0 || src.data.len() >= last + reach);
        let out = SharedMut::new(out);
        let tasks = tasks(count, self.taps * src.stride.min(reach) * 4, self.panels.len());
        tasks.into_par_iter().for_each(|(pixels, panels)| {
            let panels = &self.panels[panels];
            Task { packed: self, src, sources, row, residual, relu, pixels, panels, out: &out, out_stride }
                .run();
        });
    }
}

/// Splits pixels × panels between threads: blocks of pixels that stay in a core's cache while panels pass
/// over them, whole tiles of 14 each, and ranges of panels where there are few pixels.
fn tasks(pixels: usize, row_bytes: usize, panels: usize) -> Vec<(Range<usize>, Range<usize>)> {
    const TILE: usize = 14;
    const CACHED: usize = 384 << 10;
    let threads = rayon::current_num_threads();
    let cached = (CACHED / row_bytes.max(1) / TILE).max(4) * TILE;
    let blocks = pixels.div_ceil(cached).max(1);
    let parts = (4 * threads).div_ceil(blocks).min(panels.div_ceil(2)).max(1);
    let tiles = pixels.div_ceil(TILE);
    let mut tasks = Vec::with_capacity(blocks * parts);
    for block in 0..blocks {
        let at = |b: usize| (tiles * b / blocks * TILE).min(pixels);
        for part in 0..parts {
            let panel = |p: usize| panels * p / parts;
            tasks.push((at(block)..at(block + 1), panel(part)..panel(part + 1)));
        }
    }
    tasks
}

/// Some pixels times some panels, on one thread.
struct Task<'a> {
    packed: &'a Packed,
    src: Pixels<'a>,
    sources: Sources<'a>,
    row: Row,
    residual: Option<Pixels<'a>>,
    relu: bool,
    pixels: Range<usize>,
    panels: &'a [Panel],
    out: &'a SharedMut<'a, f32>,
    out_stride: usize,
}

impl Task<'_> {
    fn run(&self) {
        let (isa, (_, tile)) = (self.packed.isa, lanes(self.packed.isa));
        let row = self.row;
        for panel in self.panels {
            let mut strip = Strip { task: self, panel, pixels: self.pixels.start..self.pixels.start };
            while strip.pixels.end < self.pixels.end {
                let start = strip.pixels.end;
                let end =
                    self.pixels.end.min((start / row.width).saturating_add(1).saturating_mul(row.width));
                // The largest tiles first; smaller ones take the rest.
                for pixels in [14, 7, 6, 4, 2, 1] {
                    if pixels > tile && (row.stride == 0 || pixels != 7) {
                        continue;
                    }
                    let rest = end - strip.pixels.end;
                    strip.pixels = strip.pixels.end..strip.pixels.end + rest / pixels * pixels;
                    match pixels {
                        _ if strip.pixels.is_empty() => {}
                        14 => strip.run::<14>(isa, row.stride),
                        7 => strip.run::<7>(isa, row.stride),
                        6 => strip.run::<6>(isa, row.stride),
                        4 => strip.run::<4>(isa, row.stride),
                        2 => strip.run::<2>(isa, row.stride),
                        _ => strip.run::<1>(isa, row.stride),
                    }
                }
            }
        }
    }
}

/// Pixels, as many as several tiles have, times a panel.
struct Strip<'a> {
    task: &'a Task<'a>,
    panel: &'a Panel,
    pixels: Range<usize>,
}

impl Strip<'_> {
    /// In tiles of `M` pixels. Each kind of tile is entered, and compiled, by itself: only then do all its sums
    /// stay in registers.
    fn run<const M: usize>(&self, isa: Isa, stride: usize) {
        match (self.panel.spanning, self.panel.vectors, self.panel.depth) {
            (true, _, 4) if stride == 1 => run(isa, Neighbours::<M, 4, 1>(self)),
            (true, _, 4) if stride == 2 => run(isa, Neighbours::<M, 4, 2>(self)),
            (true, _, 8) if stride == 1 => run(isa, Neighbours::<M, 8, 1>(self)),
            (true, _, 8) if stride == 2 => run(isa, Neighbours::<M, 8, 2>(self)),
            (false, _, _) if stride == 1 => run(isa, Neighbours::<M, 0, 1>(self)),
            (false, _, _) if stride == 2 => run(isa, Neighbours::<M, 0, 2>(self)),
            (true, _, 4) => run(isa, Spanning::<M, 4>(self)),
            (true, _, 8) => run(isa, Spanning::<M, 8>(self)),
            (true, _, _) => run(isa, Spanning::<M, 0>(self)),
            (false, 1, _) => run(isa, Dense::<M, 1>(self)),
            (false, _, _) => run(isa, Dense::<M, 2>(self)),
        }
    }

    /// # Safety
    /// The pixels exist.
    #[inline(always)]
    unsafe fn rows<const M: usize>(&self, first: usize, tap: usize) -> [*const f32; M] {
        let Task { src, sources, packed, .. } = self.task;
        // SAFETY: `Packed::run` checked the farthest pixel.
        unsafe {
            let start = src.data.as_ptr().add(self.panel.src_channel);
            match sources {
                Sources::Same => std::array::from_fn(|m| start.add((first + m) * src.stride)),
                Sources::Table(table) => {
                    let table = table.offsets.as_ptr().add(first * packed.taps + tap);
                    std::array::from_fn(|m| start.add(*table.add(m * packed.taps) as usize))
                }
            }
        }
    }

    /// Adds bias and residual to `count` pixels' sums, applies ReLU and stores.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions, the pixels exist, and no other thread writes their panel.
    #[inline(always)]
    unsafe fn write<S: Simd<T = f32>, const V: usize>(&self, first: usize, count: usize, sums: &mut Sums) {
        let Strip { task, panel, .. } = *self;
        let whole = panel.width == V * S::LANES;
        for m in 0..count {
            let pixel = first + m;
            // SAFETY: `Packed::run` checked output and residual; the bias is padded to whole vectors. A
            // panel narrower than its vectors goes through buffers of two of the widest.
            unsafe {
                let out = task.out.slice(pixel * task.out_stride + panel.dst_channel, panel.width);
                let (mut row, mut residual) = ([0f32; 2 * 16], [0f32; 2 * 16]);
                let mut from = residual.as_ptr();
                if let Some(r) = task.residual {
                    from = r.data.as_ptr().add(pixel * r.stride + panel.dst_channel);
                    if !whole {
                        std::ptr::copy_nonoverlapping(from, residual.as_mut_ptr(), panel.width);
                        from = residual.as_ptr();
                    }
                }
                let to = if whole { out.as_mut_ptr() } else { row.as_mut_ptr() };
                for v in 0..V {
                    let bias = S::load(task.packed.bias.as_ptr().add(panel.bias + v * S::LANES));
                    let mut y = S::add(S::load(sums.at(m * V + v, S::LANES)), bias);
                    if task.residual.is_some() {
                        y = S::add(y, S::load(from.add(v * S::LANES)));
                    }
                    if task.relu {
                        y = S::max(y, S::zero());
                    }
                    S::store(to.add(v * S::LANES), y);
                }
                if !whole {
                    out.copy_from_slice(&row[..panel.width]);
                }
            }
        }
    }
}

/// A tile's sums on their way from registers to the output. They pass through memory so that nothing but short,
/// unrolled loops touches the registers' array, or it would be kept in memory all along.
#[repr(C, align(64))]
struct Sums(MaybeUninit<[f32; 14 * 2 * 16]>);

impl Sums {
    #[inline(always)]
    fn new() -> Self {
        Sums(MaybeUninit::uninit())
    }

    /// Vector `i` of at most 28.
    #[inline(always)]
    fn at(&mut self, i: usize, lanes: usize) -> *mut f32 {
        debug_assert!(i < 28 && lanes <= 16);
        self.0.as_mut_ptr().cast::<f32>().wrapping_add(i * lanes)
    }
}

/// A tile of `M` pixels times `V` vectors: every input channel's weights times one broadcast a pixel.
struct Dense<'a, const M: usize, const V: usize>(&'a Strip<'a>);

impl<const M: usize, const V: usize> Kernel<f32> for Dense<'_, M, V> {
    #[inline(always)]
    unsafe fn run<S: Simd<T = f32>>(self) {
        let strip = self.0;
        let Strip { task, panel, pixels } = strip;
        let packed = task.packed;
        for first in pixels.clone().step_by(M) {
            // SAFETY: the CPU has S's instructions; this reads the panel's channels of source pixels that exist,
            // and this panel's packed weights.
            unsafe {
                let mut acc = [[S::zero(); V]; M];
                let mut weights = packed.weights.as_ptr().add(panel.weights);
                for tap in 0..packed.taps {
                    let rows = strip.rows::<M>(first, tap);
                    for c in 0..panel.depth {
                        let mut w = [S::zero(); V];
                        for v in 0..V {
                            w[v] = S::load(weights.add(v * S::LANES));
                        }
                        weights = weights.add(V * S::LANES);
                        for m in 0..M {
                            let x = S::splat(rows[m].add(c));
                            for v in 0..V {
                                acc[m][v] = S::fma(x, w[v], acc[m][v]);
                            }
                        }
                    }
                }
                let mut sums = Sums::new();
                for m in 0..M {
                    for v in 0..V {
                        S::store(sums.at(m * V + v, S::LANES), acc[m][v]);
                    }
                }
                strip.write::<S, V>(first, M, &mut sums);
            }
        }
    }
}

/// A tile of `M` pixels times one vector of several groups: lane `l` needs channel `c` of its own group, which a
/// permute of the source vector brings. `DEPTH` 0 means: not known in advance.
struct Spanning<'a, const M: usize, const DEPTH: usize>(&'a Strip<'a>);

impl<const M: usize, const DEPTH: usize> Kernel<f32> for Spanning<'_, M, DEPTH> {
    #[inline(always)]
    unsafe fn run<S: Simd<T = f32>>(self) {
        let strip = self.0;
        let Strip { task, panel, pixels, .. } = strip;
        let depth = if DEPTH == 0 { panel.depth } else { DEPTH };
        for first in pixels.clone().step_by(M) {
            // SAFETY: as for the dense tile; source vectors are whole because LANES divides the channels.
            unsafe {
                let mut acc = [[S::zero(); 1]; M];
                let mut weights = task.packed.weights.as_ptr().add(panel.weights);
                for tap in 0..task.packed.taps {
                    let rows = strip.rows::<M>(first, tap);
                    let mut x = [S::zero(); M];
                    for m in 0..M {
                        x[m] = S::load(rows[m]);
                    }
                    for c in 0..depth {
                        let w = S::load(weights);
                        weights = weights.add(S::LANES);
                        let index = S::index(|lane| lane / depth * depth + c);
                        for m in 0..M {
                            acc[m][0] = S::fma(S::permute(x[m], index), w, acc[m][0]);
                        }
                    }
                }
                let mut sums = Sums::new();
                for m in 0..M {
                    S::store(sums.at(m, S::LANES), acc[m][0]);
                }
                strip.write::<S, 1>(first, M, &mut sums);
            }
        }
    }
}

/// A tile of `M` neighbours in a row, `STRIDE` source pixels apart, times one vector, for kernels of three columns:
/// what is brought to a register of a source pixel serves all the output pixels it reaches. `DEPTH` is as above
/// where the vector spans groups, 0 where it does not.
struct Neighbours<'a, const M: usize, const DEPTH: usize, const STRIDE: usize>(&'a Strip<'a>);

impl<const M: usize, const DEPTH: usize, const STRIDE: usize> Kernel<f32>
    for Neighbours<'_, M, DEPTH, STRIDE>
{
    #[inline(always)]
    unsafe fn run<S: Simd<T = f32>>(self) {
        let strip = self.0;
        let Strip { task, panel, pixels, .. } = strip;
        let depth = if DEPTH == 0 { panel.depth } else { DEPTH };
        for first in pixels.clone().step_by(M) {
            // SAFETY: as for the other tiles.
            unsafe {
                let mut acc = [S::zero(); M];
                let mut weights = task.packed.weights.as_ptr().add(panel.weights);
                for tap in (0..task.packed.taps).step_by(3) {
                    let columns = [0, 1, 2].map(|column| strip.rows::<M>(first, tap + column));
                    // Source pixel j of the row, in order, is column j - m · STRIDE of output pixel m.
                    let row: [*const f32; 32] = std::array::from_fn(|j| {
                        let m = (j / STRIDE).min(M - 1);
                        columns[(j - m * STRIDE).min(2)][m]
                    });
                    for c in 0..depth {
                        let w = [0, 1, 2].map(|column| S::load(weights.add(column * S::LANES)));
                        weights = weights.add(3 * S::LANES);
                        let index =
                            S::index(|lane| lane.checked_div(DEPTH).map_or(0, |group| group * DEPTH + c));
                        // Written out, not a loop: see [`Strip::run`].
                        macro_rules! sources {
                            ($($j:literal)*) => { $(
                                if $j < (M - 1) * STRIDE + 3 {
                                    let x = match DEPTH {
                                        0 => S::splat(row[$j].add(c)),
                                        _ => S::permute(S::load(row[$j]), index),
                                    };
                                    if $j % STRIDE == 0 && $j / STRIDE < M {
                                        acc[$j / STRIDE] = S::fma(x, w[0], acc[$j / STRIDE]);
                                    }
                                    if $j >= 1 && ($j - 1) % STRIDE == 0 && ($j - 1) / STRIDE < M {
                                        acc[($j - 1) / STRIDE] = S::fma(x, w[1], acc[($j - 1) / STRIDE]);
                                    }
                                    if $j >= 2 && ($j - 2) % STRIDE == 0 && ($j - 2) / STRIDE < M {
                                        acc[($j - 2) / STRIDE] = S::fma(x, w[2], acc[($j - 2) / STRIDE]);
                                    }
                                }
                            )* };
                        }
                        sources!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28);
                    }
                }
                let mut sums = Sums::new();
                for m in 0..M {
                    S::store(sums.at(m, S::LANES), acc[m]);
                }
                strip.write::<S, 1>(first, M, &mut sums);
            }
        }
    }
}
