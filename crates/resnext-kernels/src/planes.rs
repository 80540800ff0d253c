//! The form operands take in a core's cache: planes of one vector of channels, a vector a pixel.
//!
//! A kernel's inner loop then steps through memory by constants, whatever the number of channels, and no two
//! pixels compete for one set of the cache. What an operand needs before it is multiplied, widening to what is computed
//! in, normalisation, ReLU or batch norm's gradient, happens on its way there, so that it is never written to memory.

use super::fetch::{Cache, prefetch};
use super::simd::{Element, Isa, Kernel, Simd, run};
use super::stored::Stored;
use std::cell::RefCell;
use std::marker::PhantomData;

/// The values a kernel multiplies, (pixels, channels) in memory, and what becomes of them on their way.
#[derive(Debug, Clone, Copy)]
pub enum Operand<'a, D: Stored> {
    /// As they are.
    Plain(&'a [D]),
    /// `max(x·scale + shift, 0)`, by channel: an activation of which only the convolution before it is kept.
    Normalised { x: &'a [D], scale: &'a [D::Wide], shift: &'a [D::Wide] },
    /// `a·g + b·x + d`, by channel: the gradient of a convolution's result `x` by way of the batch norm behind
    /// it, of which `g` is the gradient.
    Gradient { g: &'a [D], x: &'a [D], a: &'a [D::Wide], b: &'a [D::Wide], d: &'a [D::Wide] },
}

impl<D: Stored> Operand<'_, D> {
    /// Elements in memory.
    pub fn len(&self) -> usize {
        match self {
            Operand::Plain(x) | Operand::Normalised { x, .. } => x.len(),
            Operand::Gradient { g, x, .. } => g.len().min(x.len()),
        }
    }

    /// All values as they are multiplied, for kernels that know only those.
    pub fn values(&self, isa: Isa, channels: usize) -> Vec<D::Wide> {
        use super::channels::per_channel;
        let zero = D::Wide::ZERO;
        let mut out = vec![zero; self.len()];
        match *self {
            Operand::Plain(x) => out.copy_from_slice(&D::all_wide(x)),
            Operand::Normalised { x, scale, shift } => {
                let x = &D::all_wide(x)[..];
                per_channel(isa, channels, &mut out, [x, x], [scale, shift, shift], |[x, _], [a, b, _]| {
                    let y = x * a + b;
                    if y < zero { zero } else { y }
                });
            }
            Operand::Gradient { g, x, a, b, d } => {
                let (g, x) = (&D::all_wide(g)[..], &D::all_wide(x)[..]);
                per_channel(isa, channels, &mut out, [g, x], [a, b, d], |[g, x], [a, b, d]| {
                    g * a + x * b + d
                });
            }
        }
        out
    }
}

/// Pixels that are needed next. Their lines are asked for while a core computes with those it has, so that it does not
/// wait for memory afterwards.
#[derive(Clone, Copy)]
pub(super) struct Ahead<'a, D: Stored> {
    operand: Option<Operand<'a, D>>,
    channels: usize,
    /// The first element.
    first: usize,
}

impl<'a, D: Stored> Ahead<'a, D> {
    pub(super) const NOTHING: Self = Ahead { operand: None, channels: 0, first: 0 };

    /// Pixels of an operand of so many channels from `first` on, of which there may be none.
    pub(super) fn of(operand: Operand<'a, D>, channels: usize, first: usize) -> Self {
        let some = (first < operand.len() / channels.max(1)).then_some(operand);
        Ahead { operand: some, channels, first: first * channels }
    }

    /// The same pixels, of which channels are counted from `channel` on.
    pub(super) fn of_channels_from(self, channel: usize) -> Self {
        Ahead { first: self.first + channel, ..self }
    }

    /// Asks for what there is of a vector from `channel` on of pixel `pixel`, counted from the first.
    #[inline(always)]
    pub(super) fn fetch(&self, pixel: usize, channel: usize) {
        let at = self.first + pixel * self.channels + channel;
        match self.operand {
            None => {}
            Some(Operand::Plain(x) | Operand::Normalised { x, .. }) => {
                prefetch(x.as_ptr().wrapping_add(at), Cache::Second);
            }
            Some(Operand::Gradient { g, x, .. }) => {
                prefetch(g.as_ptr().wrapping_add(at), Cache::Second);
                prefetch(x.as_ptr().wrapping_add(at), Cache::Second);
            }
        }
    }
}

/// Asks for the lines that `count` vectors `stride` elements apart are about to be written to.
#[inline(always)]
pub(super) fn expect<T>(out: *mut T, count: usize, stride: usize) {
    for i in 0..count {
        prefetch(out.wrapping_add(i * stride), Cache::Second);
    }
}

/// One operand's way to a vector; the trait lets loops be compiled for each by itself.
pub(super) trait Source<T: Element>: Copy {
    /// The vector of channels from `c` on of the pixel whose first element is `at`.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions and those elements exist.
    unsafe fn vector<S: Simd<T = T>>(self, at: usize, c: usize) -> S::V;
}

#[derive(Clone, Copy)]
struct Plain<'a, D>(&'a [D]);
#[derive(Clone, Copy)]
struct Normalised<'a, D: Stored>(&'a [D], [&'a [D::Wide]; 2]);
#[derive(Clone, Copy)]
struct Gradient<'a, D: Stored>([&'a [D]; 2], [&'a [D::Wide]; 3]);

impl<D: Stored> Source<D::Wide> for Plain<'_, D> {
    #[inline(always)]
    unsafe fn vector<S: Simd<T = D::Wide>>(self, at: usize, c: usize) -> S::V {
        // SAFETY: the trait's contract.
        unsafe { D::load::<S>(self.0.as_ptr().add(at + c)) }
    }
}

impl<D: Stored> Source<D::Wide> for Normalised<'_, D> {
    #[inline(always)]
    unsafe fn vector<S: Simd<T = D::Wide>>(self, at: usize, c: usize) -> S::V {
        let Normalised(x, [scale, shift]) = self;
        // SAFETY: the trait's contract; scale and shift have every channel.
        unsafe {
            let y = S::fma(
                D::load::<S>(x.as_ptr().add(at + c)),
                S::load(scale.as_ptr().add(c)),
                S::load(shift.as_ptr().add(c)),
            );
            S::max(y, S::zero())
        }
    }
}

impl<D: Stored> Source<D::Wide> for Gradient<'_, D> {
    #[inline(always)]
    unsafe fn vector<S: Simd<T = D::Wide>>(self, at: usize, c: usize) -> S::V {
        let Gradient([g, x], [a, b, d]) = self;
        // SAFETY: as above.
        unsafe {
            let rest = S::fma(
                D::load::<S>(x.as_ptr().add(at + c)),
                S::load(b.as_ptr().add(c)),
                S::load(d.as_ptr().add(c)),
            );
            S::fma(D::load::<S>(g.as_ptr().add(at + c)), S::load(a.as_ptr().add(c)), rest)
        }
    }
}

/// A run of neighbouring pixels on its way to neighbouring places in the planes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// The first place written.
    pub(super) to: usize,
    /// Places written, and from one to the next.
    pub(super) count: usize,
    pub(super) spread: usize,
    /// The first pixel read, and pixels from one to the next; `None` writes zeros.
    pub(super) from: Option<(usize, usize)>,
}

/// Fills planes `plane` elements long with channels `first..first + width` of an operand; vectors divide both.
pub(super) struct Fill<'a, D: Stored> {
    pub(super) operand: Operand<'a, D>,
    /// Channels of a pixel in memory.
    pub(super) channels: usize,
    pub(super) first: usize,
    pub(super) width: usize,
    pub(super) runs: &'a [Run],
    pub(super) planes: &'a mut [D::Wide],
    pub(super) plane: usize,
}

impl<D: Stored> Fill<'_, D> {
    pub(super) fn run(self, isa: Isa) {
        let coefficients = match self.operand {
            Operand::Plain(_) => self.channels,
            Operand::Normalised { scale, shift, .. } => scale.len().min(shift.len()),
            Operand::Gradient { a, b, d, .. } => a.len().min(b.len()).min(d.len()),
        };
        assert!(coefficients == self.channels && self.first + self.width <= self.channels);
        match self.operand {
            Operand::Plain(x) => run(isa, Filling(self, Plain(x))),
            Operand::Normalised { x, scale, shift } => run(isa, Filling(self, Normalised(x, [scale, shift]))),
            Operand::Gradient { g, x, a, b, d } => run(isa, Filling(self, Gradient([g, x], [a, b, d]))),
        }
    }
}

struct Filling<'a, D: Stored, O>(Fill<'a, D>, O);

impl<D: Stored, O: Source<D::Wide>> Kernel<D::Wide> for Filling<'_, D, O> {
    #[inline(always)]
    unsafe fn run<S: Simd<T = D::Wide>>(self) {
        let Filling(Fill { operand, channels, first, width, runs, planes, plane }, source) = self;
        assert!(width.is_multiple_of(S::LANES));
        let vectors = width / S::LANES;
        for run in runs {
            let Run { to, count, spread, from } = *run;
            if count == 0 {
                continue;
            }
            let end = (to + (count - 1) * spread + 1) * S::LANES;
            assert!(end <= plane && (vectors == 0 || (vectors - 1) * plane + end <= planes.len()));
            if let Some((pixel, step)) = from {
                assert!((pixel + (count - 1) * step + 1) * channels <= operand.len());
            }
            for i in 0..count {
                let out = planes[(to + i * spread) * S::LANES..].as_mut_ptr();
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

/// Memory for planes, from a thread's own stock, to which it goes back: neither cleared nor asked for again at each call.
#[derive(Debug)]
pub(super) struct Scratch<T> {
    lines: Vec<Line>,
    element: PhantomData<T>,
}

/// A cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u64; 8]);

thread_local! {
    static STOCK: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

impl<T: Element> Scratch<T> {
    /// `len` elements, of whatever values, from the start of a cache line.
    pub(super) fn get(&mut self, len: usize) -> &mut [T] {
        let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.clear();
            self.lines.resize(lines, Line([0; 8]));
        }
        // SAFETY: there are that many bytes, aligned better than elements, which are floats: any bits are one.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }
}

impl<T> Default for Scratch<T> {
    fn default() -> Self {
        Scratch { lines: STOCK.with_borrow_mut(Vec::pop).unwrap_or_default(), element: PhantomData }
    }
}

impl<T> Drop for Scratch<T> {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // A thread at its end has no stock any more.
        let _ = STOCK.try_with(|stock| stock.borrow_mut().push(lines));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operand_arrives_in_every_instruction_set() {
        let x: Vec<f32> = (0..6 * 64).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        let g: Vec<f32> = x.iter().rev().copied().collect();
        let c: Vec<f32> = (0..64).map(|i| i as f32 / 32.0 - 1.0).collect();
        let operands = [
            Operand::Plain(&x[..]),
            Operand::Normalised { x: &x, scale: &c, shift: &c },
            Operand::Gradient { g: &g, x: &x, a: &c, b: &c, d: &c },
        ];
        for isa in Isa::available() {
            for operand in operands {
                let want = operand.values(isa, 64);
                let (lanes, plane) = (super::super::simd::lanes::<f32>(isa), 5 * 16);
                let mut planes = vec![f32::NAN; plane * 32 / lanes];
                let runs = [
                    Run { to: 0, count: 1, spread: 1, from: None },
                    Run { to: 1, count: 3, spread: 1, from: Some((1, 2)) },
                ];
                let fill = Fill {
                    operand,
                    channels: 64,
                    first: 32,
                    width: 32,
                    runs: &runs,
                    planes: &mut planes,
                    plane,
                };
                fill.run(isa);
                for k in 0..32 {
                    let at = |i: usize| planes[k / lanes * plane + i * lanes + k % lanes];
                    assert_eq!(at(0), 0.0);
                    for i in 0..3 {
                        let want = want[(1 + 2 * i) * 64 + 32 + k];
                        assert!((at(1 + i) - want).abs() <= 1e-4 * want.abs().max(1.0), "{isa:?}");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic]
    fn a_pixel_that_does_not_exist_is_refused() {
        let runs = [Run { to: 0, count: 2, spread: 1, from: Some((2, 1)) }];
        let mut planes = vec![0f32; 64];
        Fill {
            operand: Operand::Plain(&[0f32; 3 * 16]),
            channels: 16,
            first: 0,
            width: 16,
            runs: &runs,
            planes: &mut planes,
            plane: 32,
        }
        .run(Isa::Portable);
    }

    #[test]
    fn scratch_is_aligned_and_grows() {
        let mut scratch = Scratch::<f64>::default();
        for len in [0, 5, 1000, 7] {
            let slice = scratch.get(len);
            assert!(slice.len() == len && slice.as_ptr().addr().is_multiple_of(64));
            slice.fill(1.0);
        }
        let place = scratch.get(1000).as_ptr().addr();
        drop(scratch);
        assert_eq!(Scratch::<f32>::default().get(2000).as_ptr().addr(), place, "it is the same memory again");
    }
}
