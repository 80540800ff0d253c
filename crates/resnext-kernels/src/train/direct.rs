//! The direct kernel of training, for any kernel size, stride, dilation and group width: the forward pass and the gradient
//! of the input, as a gather.
//!
//! Activations are read in place. A register tile holds a few pixels times two vectors of output channels; for every
//! kernel position and input channel it multiplies one broadcast activation per pixel with packed weights. Where a group
//! is narrower than a vector (1, 2, 4 or 8 channels), a vector spans several groups and the broadcast becomes a permute.

use super::gather::{Gather, OUTSIDE, Phase};
use crate::group_lanes::{ChannelPanel, channel_panels};
use crate::shape::ConvShape;
use crate::simd::dispatch::{Isa, dispatch};
use crate::simd::traits::{Element, Kernel, MAX_PIXELS, Simd};
use crate::threads::shared_slice::SharedSlice;
use crate::threads::split::Split;
use crate::threads::team::ThreadTeam;
use rayon::prelude::*;

/// One gather: destination channels are the output's in the forward pass, and the input's in the gradient.
struct Problem<'a, T> {
    gather: Gather,
    src: &'a [T],
    /// Source channels per group.
    group_src: usize,
    /// Destination channels per group.
    group_dst: usize,
    groups: usize,
}

/// The convolution of `x` (N, H, W, Cin) with `weight` (Cout, Cin/groups, kh, kw).
pub fn forward<T: Element>(isa: Isa, shape: &ConvShape, x: &[T], weight: &[T]) -> Vec<T> {
    assert_eq!(x.len(), shape.input_len());
    assert_eq!(weight.len(), shape.weight_len());
    let (group_in, group_out, taps) = (shape.group_in(), shape.group_out(), shape.kernel_positions());
    let mut out = vec![T::ZERO; shape.output_len()];
    let problem = Problem {
        gather: Gather::forward(shape),
        src: x,
        group_src: group_in,
        group_dst: group_out,
        groups: shape.config.groups,
    };
    let at = |dst: usize, src: usize, tap: usize| weight[(dst * group_in + src) * taps + tap];
    solve(isa, &problem, taps, &at, &mut out);
    out
}

/// The gradient of `x` (N, H, W, Cin) from that of the output (N, H', W', Cout).
pub fn input_gradient<T: Element>(isa: Isa, shape: &ConvShape, grad: &[T], weight: &[T]) -> Vec<T> {
    assert_eq!(grad.len(), shape.output_len());
    assert_eq!(weight.len(), shape.weight_len());
    let (group_in, group_out, taps) = (shape.group_in(), shape.group_out(), shape.kernel_positions());
    let mut out = vec![T::ZERO; shape.input_len()];
    let problem = Problem {
        gather: Gather::backward(shape),
        src: grad,
        group_src: group_out,
        group_dst: group_in,
        groups: shape.config.groups,
    };
    let at = |dst: usize, src: usize, tap: usize| {
        weight[((dst / group_in * group_out + src) * group_in + dst % group_in) * taps + tap]
    };
    solve(isa, &problem, taps, &at, &mut out);
    out
}

fn solve<T: Element>(
    isa: Isa,
    problem: &Problem<T>,
    taps: usize,
    weight: &(impl Fn(usize, usize, usize) -> T + Sync),
    out: &mut [T],
) {
    dispatch(isa, DirectConv { problem, taps, weight, out, isa });
}

/// Packs the weights and splits the work for an instruction set. Every task dispatches again, as closures for other threads
/// are compiled without the instruction set.
struct DirectConv<'a, T, W> {
    problem: &'a Problem<'a, T>,
    taps: usize,
    weight: &'a W,
    out: &'a mut [T],
    isa: Isa,
}

impl<T: Element, W: Fn(usize, usize, usize) -> T + Sync> Kernel<T> for DirectConv<'_, T, W> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = T>>(self) {
        let Problem { gather, group_src, group_dst, groups, .. } = self.problem;
        let channels: Vec<_> = channel_panels(S::LANES, 2, *groups, *group_src, *group_dst).collect();
        let pack = |&channels| DirectPanel::pack(S::LANES, channels, *group_src, self.taps, self.weight);
        let panels: Vec<_> = channels.par_iter().map(pack).collect();
        // Zeros for positions outside the map: one vector more than a group, for loads of whole vectors.
        let zeros = vec![T::ZERO; group_src + S::LANES];
        let out = SharedSlice::new(self.out);
        for phase in &gather.phases {
            let pixels = gather.pixels(phase);
            let pixel_bytes = groups * group_src * size_of::<T>();
            let threads = ThreadTeam::size();
            let split = Split::by_cache(pixels, S::PIXELS, pixel_bytes, panels.len(), threads);
            (0..split.tasks()).into_par_iter().for_each_init(
                || (Vec::new(), Vec::new()),
                |(dst, src), task| {
                    let (pixels, panel_range) = split.get(task);
                    gather.block(phase, pixels.start, pixels.len(), dst, src);
                    let panels = &panels[panel_range];
                    dispatch(
                        self.isa,
                        DirectBlock {
                            problem: self.problem,
                            phase,
                            dst,
                            src,
                            panels,
                            zeros: &zeros,
                            out: &out,
                        },
                    );
                },
            );
        }
    }
}

/// The weights of a panel of up to two vectors of destination channels.
struct DirectPanel<T> {
    /// `[kernel position][source channel][vectors · LANES]`, padded with zeros.
    weights: Vec<T>,
    channels: ChannelPanel,
    /// Source channels a destination channel sums over.
    depth: usize,
}

impl<T: Element> DirectPanel<T> {
    /// Packs `weight(destination channel, source channel of its group, kernel position)`.
    fn pack(
        lanes: usize,
        channels: ChannelPanel,
        depth: usize,
        taps: usize,
        weight: &(impl Fn(usize, usize, usize) -> T + Sync),
    ) -> Self {
        let ChannelPanel { dst_channel, width, vectors, .. } = channels;
        let mut weights = vec![T::ZERO; taps * depth * vectors * lanes];
        for (row, values) in weights.chunks_exact_mut(vectors * lanes).enumerate() {
            for (k, value) in values[..width].iter_mut().enumerate() {
                *value = weight(dst_channel + k, row % depth, row / depth);
            }
        }
        DirectPanel { weights, channels, depth }
    }
}

/// One block of pixels times some panels.
struct DirectBlock<'a, T> {
    problem: &'a Problem<'a, T>,
    phase: &'a Phase,
    dst: &'a [usize],
    src: &'a [usize],
    panels: &'a [DirectPanel<T>],
    zeros: &'a [T],
    out: &'a SharedSlice<'a, T>,
}

impl<T: Element> Kernel<T> for DirectBlock<'_, T> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = T>>(self) {
        let taps = self.phase.taps.len();
        for panel in self.panels {
            for first in (0..self.dst.len()).step_by(S::PIXELS) {
                let count = (self.dst.len() - first).min(S::PIXELS);
                let src = &self.src[first * taps..(first + count) * taps];
                let dst = &self.dst[first..first + count];
                // SAFETY: the CPU has S's instructions; `src` holds `taps` pixels for each of `count`, which by Gather's
                // construction are inside the source or OUTSIDE.
                unsafe {
                    match (panel.channels.spanning, panel.channels.vectors, panel.depth) {
                        (true, _, 4) => self.spanning_tile::<S, 4>(panel, src, dst),
                        (true, _, 8) => self.spanning_tile::<S, 8>(panel, src, dst),
                        (true, _, _) => self.spanning_tile::<S, 0>(panel, src, dst),
                        (false, 1, _) => self.dense_tile::<S, 1>(panel, src, dst),
                        (false, _, _) => self.dense_tile::<S, 2>(panel, src, dst),
                    }
                }
            }
        }
    }
}

impl<T: Element> DirectBlock<'_, T> {
    fn channels_src(&self) -> usize {
        self.problem.groups * self.problem.group_src
    }

    /// The source pixels of kernel position `t` for the tile's pixels. Pixels past the end read zeros.
    #[inline(always)]
    fn pointers(
        &self,
        panel: &DirectPanel<T>,
        src: &[usize],
        t: usize,
        pixels: usize,
    ) -> [*const T; MAX_PIXELS] {
        let taps = self.phase.taps.len();
        let mut pointers = [self.zeros.as_ptr(); MAX_PIXELS];
        for m in 0..pixels {
            match src.get(m * taps + t) {
                Some(&pixel) if pixel != OUTSIDE => {
                    pointers[m] =
                        self.problem.src[pixel * self.channels_src() + panel.channels.src_channel..].as_ptr();
                }
                _ => {}
            }
        }
        pointers
    }

    /// # Safety
    /// The CPU has `S`'s instructions.
    #[inline(always)]
    unsafe fn dense_tile<S: Simd<T = T>, const VECTORS: usize>(
        &self,
        panel: &DirectPanel<T>,
        src: &[usize],
        dst: &[usize],
    ) {
        // SAFETY: loads read `depth` channels from the panel's first channel of a pixel of the source
        // (or of the zeros, which are longer), and rows of the packed weights.
        unsafe {
            let mut acc = [[S::zero(); VECTORS]; MAX_PIXELS];
            let depth = panel.depth;
            for (t, tap) in self.phase.taps.iter().enumerate() {
                let pixels = self.pointers(panel, src, t, S::PIXELS);
                let weights = panel.weights[tap.index * depth * VECTORS * S::LANES..]
                    [..depth * VECTORS * S::LANES]
                    .as_ptr();
                for c in 0..depth {
                    let row = weights.add(c * VECTORS * S::LANES);
                    let mut w = [S::zero(); VECTORS];
                    for v in 0..VECTORS {
                        w[v] = S::load(row.add(v * S::LANES));
                    }
                    for m in 0..S::PIXELS {
                        let x = S::splat(pixels[m].add(c));
                        for v in 0..VECTORS {
                            acc[m][v] = S::fma(x, w[v], acc[m][v]);
                        }
                    }
                }
            }
            self.write::<S, VECTORS>(panel, dst, acc);
        }
    }

    /// A tile whose vector of destination channels spans several groups: each lane needs channel `c` of its own group, which
    /// a permute of the source vector brings. `DEPTH` is the channels per group, or 0 for a number known at run time only.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions.
    #[inline(always)]
    unsafe fn spanning_tile<S: Simd<T = T>, const DEPTH: usize>(
        &self,
        panel: &DirectPanel<T>,
        src: &[usize],
        dst: &[usize],
    ) {
        // SAFETY: as for the dense tile; source vectors are whole because LANES divides the channels.
        unsafe {
            let depth = if DEPTH == 0 { panel.depth } else { DEPTH };
            let mut acc = [[S::zero(); 1]; MAX_PIXELS];
            for (t, tap) in self.phase.taps.iter().enumerate() {
                let pixels = self.pointers(panel, src, t, S::PIXELS);
                let weights = panel.weights[tap.index * depth * S::LANES..][..depth * S::LANES].as_ptr();
                let mut x = [S::zero(); MAX_PIXELS];
                for m in 0..S::PIXELS {
                    x[m] = S::load(pixels[m]);
                }
                for c in 0..depth {
                    let w = S::load(weights.add(c * S::LANES));
                    let index = S::index(|lane| lane / depth * depth + c);
                    for m in 0..S::PIXELS {
                        acc[m][0] = S::fma(S::permute(x[m], index), w, acc[m][0]);
                    }
                }
            }
            self.write::<S, 1>(panel, dst, acc);
        }
    }

    /// # Safety
    /// The CPU has `S`'s instructions; no other thread writes these pixels' panel.
    #[inline(always)]
    unsafe fn write<S: Simd<T = T>, const VECTORS: usize>(
        &self,
        panel: &DirectPanel<T>,
        dst: &[usize],
        acc: [[S::V; VECTORS]; MAX_PIXELS],
    ) {
        let channels = self.problem.groups * self.problem.group_dst;
        let ChannelPanel { dst_channel, width, .. } = panel.channels;
        for (m, &pixel) in dst.iter().enumerate() {
            let mut row = [T::ZERO; 2 * 16];
            // SAFETY: a row holds two vectors of the widest instruction set; tasks own disjoint
            // (pixel, panel) pairs, and `slice` checks the range against the output.
            unsafe {
                for v in 0..VECTORS {
                    S::store(row.as_mut_ptr().add(v * S::LANES), acc[m][v]);
                }
                self.out.slice(pixel * channels + dst_channel, width).copy_from_slice(&row[..width]);
            }
        }
    }
}
