//! Packing of operands into planes: panels one vector of channels wide, one vector per pixel.
//!
//! A kernel's inner loop then steps through memory by constants, whatever the number of channels, and pixels do not compete
//! for one set of the cache. Whatever an operand needs before it is multiplied is computed while it is packed, and never
//! written to memory: widening, normalisation and ReLU, or batch norm's gradient.

use super::operand::{Gradient, Normalised, Operand, Plain, Source};
use crate::memory::prefetch::{CacheLevel, prefetch};
use crate::simd::dispatch::{Isa, dispatch};
use crate::simd::traits::{Kernel, Simd, Storage};
use std::ops::Range;

/// Bytes per cache line.
pub const CACHE_LINE: usize = 64;

/// Elements per plane with room for `places` vectors: an odd number of cache lines. A pixel's vectors lie one plane apart,
/// and with an even number, such as a power of two, they would compete for a few sets of the first-level cache.
pub fn plane_len<T>(places: usize, lanes: usize) -> usize {
    let line = CACHE_LINE / size_of::<T>();
    ((places * lanes).div_ceil(line) | 1) * line
}

/// Pixels that are packed next, and prefetched while the core computes with those it has.
#[derive(Clone, Copy)]
pub struct Prefetch<'a, D: Storage> {
    operand: Option<Operand<'a, D>>,
    channels: usize,
    /// The first element.
    first: usize,
}

impl<'a, D: Storage> Prefetch<'a, D> {
    /// No pixels.
    pub const NONE: Self = Prefetch { operand: None, channels: 0, first: 0 };

    /// The pixels of an operand with `channels` from pixel `first` on, which may be past the end.
    pub fn of(operand: Operand<'a, D>, channels: usize, first: usize) -> Self {
        let some = (first < operand.len() / channels.max(1)).then_some(operand);
        Prefetch { operand: some, channels, first: first * channels }
    }

    /// The same pixels, with channels counted from `channel` on.
    pub fn of_channels_from(self, channel: usize) -> Self {
        Prefetch { first: self.first + channel, ..self }
    }

    /// The lines of channels `channel..channel + width` of these pixels.
    pub fn lines(&self, channel: usize, width: usize) -> PixelLines {
        let at = self.first + channel;
        let of = |map: &[D]| map.as_ptr().wrapping_add(at).cast::<u8>();
        let from = match self.operand {
            None => return PixelLines::NONE,
            Some(Operand::Plain(x) | Operand::Normalised { x, .. }) => [of(x), std::ptr::null()],
            Some(Operand::Gradient { g, x, .. }) => [of(g), of(x)],
        };
        PixelLines { from, width: width * size_of::<D>(), step: self.channels * size_of::<D>() }
    }
}

/// The cache lines that hold some channels of consecutive pixels, to be prefetched a few pixels at a time.
#[derive(Clone, Copy)]
pub struct PixelLines {
    /// The first pixel's channels in one or two maps; null pointers stand for no map.
    from: [*const u8; 2],
    /// Bytes of the channels.
    width: usize,
    /// Bytes from one pixel to the next.
    step: usize,
}

impl PixelLines {
    /// No lines.
    pub const NONE: Self = PixelLines { from: [std::ptr::null(); 2], width: 0, step: 0 };

    /// Prefetches one line of each of some pixels, the one that starts `byte` bytes after the first.
    #[inline(always)]
    pub fn prefetch_line(&self, pixels: Range<usize>, byte: usize) {
        for from in self.from {
            if from.is_null() {
                return;
            }
            for pixel in pixels.clone() {
                prefetch(from.wrapping_add(pixel * self.step + byte), CacheLevel::Second);
            }
        }
    }
}

/// Prefetches the lines of some pixels of two operands bit by bit: each register tile of a kernel a few, before its products.
/// Prefetches within the products would take slots of theirs, and many at once would fill the core's queue of misses.
pub struct LineCursor {
    /// The two maps of each operand.
    maps: [(*const u8, usize, usize); 4],
    pixels: usize,
    /// The map, pixel and byte to be prefetched next.
    map: usize,
    pixel: usize,
    byte: usize,
    /// Lines per call.
    pub pace: usize,
}

impl LineCursor {
    /// All lines of `pixels` pixels in `calls` calls of [`advance`](Self::advance).
    pub fn new([x, g]: [PixelLines; 2], pixels: usize, calls: usize) -> Self {
        let maps =
            [(x, 0), (x, 1), (g, 0), (g, 1)].map(|(lines, i)| (lines.from[i], lines.width, lines.step));
        let wanted = maps.iter().filter(|(from, ..)| !from.is_null());
        let lines = wanted.map(|(_, width, _)| width.div_ceil(CACHE_LINE)).sum::<usize>() * pixels;
        LineCursor { maps, pixels, map: 0, pixel: 0, byte: 0, pace: lines.div_ceil(calls.max(1)) }
    }

    /// Prefetches the next lines.
    #[inline(always)]
    pub fn advance(&mut self) {
        for _ in 0..self.pace {
            let Some(line) = self.next_line() else { return };
            prefetch(line, CacheLevel::Second);
        }
    }

    /// The next line, `None` after the last.
    #[inline(always)]
    pub fn next_line(&mut self) -> Option<*const u8> {
        while self.map < 4 && (self.maps[self.map].0.is_null() || self.pixel == self.pixels) {
            (self.map, self.pixel) = (self.map + 1, 0);
        }
        let &(from, width, step) = self.maps.get(self.map)?;
        let line = from.wrapping_add(self.pixel * step + self.byte);
        self.byte += CACHE_LINE;
        if self.byte >= width {
            (self.pixel, self.byte) = (self.pixel + 1, 0);
        }
        Some(line)
    }
}

/// A run of pixels, and the run of places in the planes that they are packed into.
#[derive(Debug, Clone, Copy)]
pub struct PixelRun {
    /// The first place.
    pub to: usize,
    /// The number of places.
    pub count: usize,
    /// Places from one to the next.
    pub to_step: usize,
    /// The first pixel, and pixels from one to the next; `None` packs zeros.
    pub from: Option<(usize, usize)>,
}

/// Packs channels `first..first + width` of an operand, whole vectors, into planes of `plane` elements.
pub struct Pack<'a, D: Storage> {
    pub operand: Operand<'a, D>,
    /// Channels per pixel in memory.
    pub channels: usize,
    pub first: usize,
    pub width: usize,
    pub runs: &'a [PixelRun],
    pub planes: &'a mut [D::Compute],
    pub plane: usize,
}

impl<D: Storage> Pack<'_, D> {
    pub fn pack(self, isa: Isa) {
        let coefficients = match self.operand {
            Operand::Plain(_) => self.channels,
            Operand::Normalised { scale, shift, .. } => scale.len().min(shift.len()),
            Operand::Gradient { a, b, d, .. } => a.len().min(b.len()).min(d.len()),
        };
        assert!(coefficients == self.channels && self.first + self.width <= self.channels);
        match self.operand {
            Operand::Plain(x) => dispatch(isa, PackKernel(self, Plain(x))),
            Operand::Normalised { x, scale, shift } => {
                dispatch(isa, PackKernel(self, Normalised(x, [scale, shift])))
            }
            Operand::Gradient { g, x, a, b, d } => {
                dispatch(isa, PackKernel(self, Gradient([g, x], [a, b, d])))
            }
        }
    }
}

struct PackKernel<'a, D: Storage, O>(Pack<'a, D>, O);

impl<D: Storage, O: Source<D::Compute>> Kernel<D::Compute> for PackKernel<'_, D, O> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = D::Compute>>(self) {
        let PackKernel(Pack { operand, channels, first, width, runs, planes, plane }, source) = self;
        assert!(width.is_multiple_of(S::LANES));
        let vectors = width / S::LANES;
        for run in runs {
            let PixelRun { to, count, to_step, from } = *run;
            if count == 0 {
                continue;
            }
            let end = (to + (count - 1) * to_step + 1) * S::LANES;
            assert!(end <= plane && (vectors == 0 || (vectors - 1) * plane + end <= planes.len()));
            if let Some((pixel, step)) = from {
                assert!((pixel + (count - 1) * step + 1) * channels <= operand.len());
            }
            for i in 0..count {
                let out = planes[(to + i * to_step) * S::LANES..].as_mut_ptr();
                // SAFETY: the CPU has S's instructions; the asserts above cover the last pixel and plane.
                unsafe {
                    match from {
                        Some((pixel, step)) => {
                            let at = (pixel + i * step) * channels;
                            for k in 0..vectors {
                                let v = source.vector::<S>(at, first + k * S::LANES);
                                S::store(out.add(k * plane), v);
                            }
                        }
                        None => {
                            for k in 0..vectors {
                                S::store(out.add(k * plane), S::zero());
                            }
                        }
                    }
                }
            }
        }
    }
}
