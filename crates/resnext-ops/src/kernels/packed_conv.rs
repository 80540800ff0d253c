//! Convolution for inference: weights packed once, and bias, residual and ReLU while the sum is still in
//! registers.
//!
//! A register tile holds up to 14 pixels (two rows of a 7×7 map) times two vectors of output channels.
//! Activations are read in place, one broadcast a pixel and input channel. Where a group is narrower than
//! a vector, the vector spans several groups and the broadcast becomes a permute.

use super::shared::{SharedMut, spans_groups};
use super::simd::{Isa, Kernel, Simd, run};
use rayon::prelude::*;
use std::ops::Range;

/// Weights in the order the kernel reads them.
#[derive(Debug)]
pub(crate) struct Packed {
    isa: Isa,
    taps: usize,
    out_channels: usize,
    panels: Vec<Panel>,
    /// One after another, all panels' `[tap][source channel][vectors · LANES]`, padded with zeros.
    weights: Vec<f32>,
    /// A panel's width each, padded with zeros.
    bias: Vec<f32>,
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
}

impl SourceTable {
    pub(crate) fn new(offsets: Vec<u32>) -> Self {
        let farthest = offsets.iter().copied().max().unwrap_or(0) as usize;
        SourceTable { offsets, farthest }
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

fn lanes(isa: Isa) -> usize {
    struct Lanes<'a>(&'a mut usize);
    impl Kernel<f32> for Lanes<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd<T = f32>>(self) {
            *self.0 = S::LANES;
        }
    }
    let mut lanes = 0;
    run(isa, Lanes(&mut lanes));
    lanes
}

impl Packed {
    /// Packs `weight(group, output channel, input channel, tap)` of a group each.
    pub(crate) fn new(
        isa: Isa,
        groups: usize,
        group_in: usize,
        group_out: usize,
        taps: usize,
        weight: &(impl Fn(usize, usize, usize, usize) -> f32 + Sync),
        bias: &[f32],
    ) -> Self {
        let lanes = lanes(isa);
        let mut panels = Vec::new();
        let (mut weights, mut biases) = (0, 0);
        let spanning = spans_groups(lanes, groups, group_in, group_out);
        let (blocks, width) = if spanning { (1, groups * group_out) } else { (groups, group_out) };
        let step = if spanning { lanes } else { 2 * lanes };
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
            out_channels: groups * group_out,
            weights: vec![0.0; weights],
            bias: vec![0.0; biases],
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
                let (tap, c) = (row / panel.depth, row % panel.depth);
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
            run(
                self.isa,
                Task { packed: self, src, sources, residual, relu, pixels, panels, out: &out, out_stride },
            );
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
    residual: Option<Pixels<'a>>,
    relu: bool,
    pixels: Range<usize>,
    panels: &'a [Panel],
    out: &'a SharedMut<'a, f32>,
    out_stride: usize,
}

impl Kernel<f32> for Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd<T = f32>>(self) {
        for panel in self.panels {
            let mut first = self.pixels.start;
            while first < self.pixels.end {
                let left = self.pixels.end - first;
                // SAFETY: the CPU has S's instructions; `Packed::run` checked that all pixels named by
                // `sources` lie in the source, and all output pixels in the output.
                unsafe {
                    first += match left.min(S::TILE) {
                        14.. => self.tile::<S, 14>(panel, first),
                        7.. => self.tile::<S, 7>(panel, first),
                        6 => self.tile::<S, 6>(panel, first),
                        4.. => self.tile::<S, 4>(panel, first),
                        2.. => self.tile::<S, 2>(panel, first),
                        _ => self.tile::<S, 1>(panel, first),
                    };
                }
            }
        }
    }
}

impl Task<'_> {
    /// Computes `M` pixels of a panel, and says how many that are.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions, and the pixels exist.
    #[inline(always)]
    unsafe fn tile<S: Simd<T = f32>, const M: usize>(&self, panel: &Panel, first: usize) -> usize {
        // SAFETY: passed on to the caller.
        unsafe {
            match (panel.spanning, panel.vectors, panel.depth) {
                (true, _, 4) => self.spanning::<S, M, 4>(panel, first),
                (true, _, 8) => self.spanning::<S, M, 8>(panel, first),
                (true, _, _) => self.spanning::<S, M, 0>(panel, first),
                (false, 1, _) => self.dense::<S, M, 1>(panel, first),
                (false, _, _) => self.dense::<S, M, 2>(panel, first),
            }
        }
        M
    }

    /// # Safety
    /// The pixels exist.
    #[inline(always)]
    unsafe fn rows<const M: usize>(&self, panel: &Panel, first: usize, tap: usize) -> [*const f32; M] {
        // SAFETY: `Packed::run` checked the farthest pixel.
        unsafe {
            let start = self.src.data.as_ptr().add(panel.src_channel);
            match self.sources {
                Sources::Same => std::array::from_fn(|m| start.add((first + m) * self.src.stride)),
                Sources::Table(table) => {
                    let table = table.offsets.as_ptr().add(first * self.packed.taps + tap);
                    std::array::from_fn(|m| start.add(*table.add(m * self.packed.taps) as usize))
                }
            }
        }
    }

    /// # Safety
    /// As [`tile`](Self::tile).
    #[inline(always)]
    unsafe fn dense<S: Simd<T = f32>, const M: usize, const V: usize>(&self, panel: &Panel, first: usize) {
        // SAFETY: reads `depth` channels of source pixels that exist, and this panel's packed weights.
        unsafe {
            let mut acc = [[S::zero(); V]; M];
            let mut weights = self.packed.weights.as_ptr().add(panel.weights);
            for tap in 0..self.packed.taps {
                let rows = self.rows::<M>(panel, first, tap);
                for c in 0..panel.depth {
                    let w: [S::V; V] = std::array::from_fn(|v| S::load(weights.add(v * S::LANES)));
                    weights = weights.add(V * S::LANES);
                    for m in 0..M {
                        let x = S::splat(rows[m].add(c));
                        for v in 0..V {
                            acc[m][v] = S::fma(x, w[v], acc[m][v]);
                        }
                    }
                }
            }
            self.write::<S, M, V>(panel, first, acc);
        }
    }

    /// Lane `l` needs channel `c` of its own group, which a permute of the source vector brings. `DEPTH` 0
    /// means: not known in advance.
    ///
    /// # Safety
    /// As [`tile`](Self::tile).
    #[inline(always)]
    unsafe fn spanning<S: Simd<T = f32>, const M: usize, const DEPTH: usize>(
        &self,
        panel: &Panel,
        first: usize,
    ) {
        // SAFETY: as for the dense tile; source vectors are whole because LANES divides the channels.
        unsafe {
            let depth = if DEPTH == 0 { panel.depth } else { DEPTH };
            let mut acc = [[S::zero(); 1]; M];
            let mut weights = self.packed.weights.as_ptr().add(panel.weights);
            for tap in 0..self.packed.taps {
                let rows = self.rows::<M>(panel, first, tap);
                let x: [S::V; M] = std::array::from_fn(|m| S::load(rows[m]));
                for c in 0..depth {
                    let w = S::load(weights);
                    weights = weights.add(S::LANES);
                    let index = S::index(|lane| lane / depth * depth + c);
                    for m in 0..M {
                        acc[m][0] = S::fma(S::permute(x[m], index), w, acc[m][0]);
                    }
                }
            }
            self.write::<S, M, 1>(panel, first, acc);
        }
    }

    /// Adds bias and residual, applies ReLU and stores.
    ///
    /// # Safety
    /// As [`tile`](Self::tile), and no other thread writes these pixels' panel.
    #[inline(always)]
    unsafe fn write<S: Simd<T = f32>, const M: usize, const V: usize>(
        &self,
        panel: &Panel,
        first: usize,
        acc: [[S::V; V]; M],
    ) {
        let whole = panel.width == V * S::LANES;
        for m in 0..M {
            let pixel = first + m;
            // SAFETY: `Packed::run` checked output and residual; the bias is padded to whole vectors. A
            // panel narrower than its vectors goes through a buffer of two of the widest.
            unsafe {
                let out = self.out.slice(pixel * self.out_stride + panel.dst_channel, panel.width);
                let mut row = [0f32; 2 * 16];
                let mut residual = [0f32; 2 * 16];
                let mut from = std::ptr::null();
                if let Some(r) = self.residual {
                    from = r.data.as_ptr().add(pixel * r.stride + panel.dst_channel);
                    if !whole {
                        std::ptr::copy_nonoverlapping(from, residual.as_mut_ptr(), panel.width);
                        from = residual.as_ptr();
                    }
                }
                let to = if whole { out.as_mut_ptr() } else { row.as_mut_ptr() };
                for v in 0..V {
                    let bias = S::load(self.packed.bias.as_ptr().add(panel.bias + v * S::LANES));
                    let mut y = S::add(acc[m][v], bias);
                    if self.residual.is_some() {
                        y = S::add(y, S::load(from.add(v * S::LANES)));
                    }
                    if self.relu {
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
