//! 3×3 convolutions of stride 1 with 4/9 of the multiplications: Winograd's F(2×2, 3×3), after Lavin and Gray (2015,
//! arXiv 1509.09308). Inference and training share it.
//!
//! A tile of 2×2 output pixels reads 4×4 source pixels `d`. With kernel `g`, it is `Y = Aᵀ [Σ (G g Gᵀ) ⊙ (Bᵀ d B)] A`: the
//! transformed kernels, pixels and sums over channels each have 16 positions. `A` and `B` consist of 0, 1 and -1, and `G`
//! of halves as well, so small integers are computed exactly. A tile depends on its own pixels alone.
//!
//! A NaN or infinity in a source pixel makes every pixel of the tiles that read it NaN.

use crate::memory::scratch::Scratch;
use crate::simd::dispatch::{Isa, dispatch, lanes, lanes_and_tile};
use crate::simd::traits::{Element, Kernel, MAX_LANES, Simd};
use std::ops::Range;

/// Positions of a transformed tile or kernel.
pub const POSITIONS: usize = 16;

/// Tiles of the largest strip.
pub const LARGEST: usize = 8;

/// The most channels per group: with more, a vector's weights leave the first-level cache between two strips of tiles.
const MOST_INPUTS: usize = 128;

/// Whether tiles support groups of `group` input and output channels: groups of whole vectors, or two groups per vector.
pub const fn supports(lanes: usize, group: usize) -> bool {
    group >= 8 && lanes == 2 * group || group.is_multiple_of(lanes) && group <= MOST_INPUTS
}

/// Vectors of a group, which read the same input channels; 1 if a vector holds several groups.
pub fn vectors_per_group(lanes: usize, group: usize) -> usize {
    (group / lanes).max(1)
}

/// The tiles of a batch of maps, in order: which pixels each reads, and which it writes.
#[derive(Debug, Default)]
pub struct Tiling {
    /// The offsets of each tile's 4×4 source pixels, row by row.
    reads: Vec<[u32; 16]>,
    /// The indices of each tile's 2×2 output pixels, or [`OUTSIDE`].
    writes: Vec<[u32; 4]>,
    /// The largest offset in `reads`.
    farthest: usize,
    /// The number of output pixels so far.
    pixels: usize,
}

/// Marks an output pixel beyond the map's edge.
const OUTSIDE: u32 = u32::MAX;

impl Tiling {
    /// Adds a map of `height`×`width` output pixels, numbered after those of the maps before it. `at(y, x)` is the offset
    /// of the padded source pixel (y, x), counted from the first that output pixel (0, 0) reads.
    pub fn add(&mut self, (height, width): (usize, usize), at: impl Fn(usize, usize) -> usize) {
        for top in (0..height).step_by(2) {
            for left in (0..width).step_by(2) {
                let read = |i: usize| at(top + i / 4, left + i % 4) as u32;
                let write = |i: usize| match (top + i / 2, left + i % 2) {
                    (y, x) if y < height && x < width => (self.pixels + y * width + x) as u32,
                    _ => OUTSIDE,
                };
                self.writes.push([0, 1, 2, 3].map(write));
                let reads: [u32; 16] = std::array::from_fn(read);
                self.farthest = reads.iter().fold(self.farthest, |most, &read| most.max(read as usize));
                self.reads.push(reads);
            }
        }
        self.pixels += height * width;
    }

    /// The number of tiles so far.
    pub fn len(&self) -> usize {
        self.reads.len()
    }

    /// Whether there are no tiles.
    pub fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// The number of output pixels so far.
    pub fn pixels(&self) -> usize {
        self.pixels
    }

    /// The indices of a tile's output pixels; `None` for those beyond the edge of a map of odd width or height.
    fn writes(&self, tile: usize) -> impl Iterator<Item = Option<usize>> {
        self.writes[tile].iter().map(|&pixel| (pixel != OUTSIDE).then_some(pixel as usize))
    }
}

/// Receives the sums, one vector of an output pixel at a time.
pub trait TileSink<T: Element> {
    /// Whether a vector may hold two groups.
    const NARROW_GROUPS: bool;

    /// Called 16 times while a strip is multiplied with a vector's weights, to prefetch what is needed later a few lines at a
    /// time.
    fn meanwhile(&self) -> impl FnMut();

    /// Prefetches what [`put`](Self::put) will read and write.
    fn expect<S: Simd<T = T>>(&self, pixel: usize, vector: usize);

    /// Receives a sum.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions; the pixel is one of the tiles' and the vector one of the units'.
    unsafe fn put<S: Simd<T = T>>(&self, pixel: usize, vector: usize, sum: S::V);
}

/// The part of a convolution that one task computes: some tiles times some vectors of channels.
pub struct WinogradTiles<'a, T, K> {
    pub tiling: &'a Tiling,
    pub tiles: Range<usize>,
    pub maps: &'a [T],
    /// Elements from one vector of a pixel's channels to the next.
    pub pitch: usize,
    /// Channels per group.
    pub group: usize,
    /// The vectors of channels, in units of [`vectors_per_group`].
    pub units: Range<usize>,
    /// `[output vector][position][input channel][LANES]` for all vectors, lanes in the order of [`lane`].
    pub weights: &'a [T],
    pub sink: K,
}

impl<T: Element, K: TileSink<T>> WinogradTiles<'_, T, K> {
    pub fn compute(&self, isa: Isa) {
        let count = self.tiles.len();
        // The last strip starts early enough to be whole; what it computes twice has the same bits. Each instruction waits
        // for the one before it on the same sum, so strips of fewer than five tiles take as long as strips of five.
        let (lanes, tile) = lanes_and_tile::<T>(isa);
        let pairs = in_pairs(tile, vectors_per_group(lanes, self.group));
        // Two vectors have twice as many sums.
        let (sizes, least): (&[usize], _) =
            if pairs { (&[6, 4, 2, 1], 3) } else { (&[LARGEST, 7, 4, 2, 1], 5) };
        let cost = |&m: &usize| (count.div_ceil(m) * m.max(least), count % m);
        let compiled = |&m: &usize| m <= count && is_compiled(m, tile, size_of::<T>());
        match sizes.iter().copied().filter(compiled).min_by_key(cost) {
            Some(LARGEST) => self.strips::<LARGEST>(isa),
            Some(7) => self.strips::<7>(isa),
            Some(6) => self.strips::<6>(isa),
            Some(4) => self.strips::<4>(isa),
            Some(2) => self.strips::<2>(isa),
            Some(_) => self.strips::<1>(isa),
            None => {}
        }
    }

    fn strips<const M: usize>(&self, isa: Isa) {
        match lanes::<T>(isa) / self.group {
            0 | 1 => dispatch(isa, WinogradStrips::<T, K, M, 1>(self)),
            _ => dispatch(isa, WinogradStrips::<T, K, M, 2>(self)),
        }
    }
}

/// Whether strips of `m` tiles are compiled for an instruction set whose register tiles have `tile` pixels, and elements of
/// `bytes`: sets and types that matter less are compiled in fewer sizes.
const fn is_compiled(m: usize, tile: usize, bytes: usize) -> bool {
    match m {
        LARGEST | 7 | 2 => tile >= 6 && bytes == 4,
        6 => tile == 6 && bytes == 4,
        _ => true,
    }
}

/// Whether a strip is multiplied with two output vectors of a group at a time. With 16 registers, one vector of weights
/// serves
/// too few tiles: the products of eight would take nine loads, and their sums and inputs more registers than there are. Six
/// tiles times two vectors take eight loads for twelve products, and fifteen registers.
const fn in_pairs(tile: usize, vectors: usize) -> bool {
    tile == 6 && vectors.is_multiple_of(2)
}

/// The lane of channel `channel` of an input or output vector in a register: the groups' first channels come first, then
/// their second ones, and so on. The channels that the lanes of one weight vector multiply are then neighbours.
fn lane(channel: usize, lanes: usize, groups: usize) -> usize {
    let group = lanes / groups;
    channel % group * groups + channel / group
}

/// Strips of `M` tiles, each size a function of its own: only then do all sums stay in registers. A vector holds `GROUPS`
/// groups.
struct WinogradStrips<'a, 'b, T, K, const M: usize, const GROUPS: usize>(&'a WinogradTiles<'b, T, K>);

impl<T: Element, K: TileSink<T>, const M: usize, const GROUPS: usize> Kernel<T>
    for WinogradStrips<'_, '_, T, K, M, GROUPS>
{
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = T>>(self) {
        if const { !is_compiled(M, S::TILE, size_of::<T>()) } {
            unreachable!("`compute` chooses compiled sizes");
        }
        if const { GROUPS > 1 && !(K::NARROW_GROUPS && supports(S::LANES, S::LANES / GROUPS)) } {
            unreachable!("`supports` refuses such groups, or this sink's kernel does");
        }
        let WinogradTiles { tiling, tiles, maps, pitch, group, units, weights, .. } = self.0;
        let (vectors, size) = (vectors_per_group(S::LANES, *group), POSITIONS * group * S::LANES);
        assert!(supports(S::LANES, *group) && GROUPS == (S::LANES / group).max(1));
        assert!(M <= tiles.len() && tiles.end <= tiling.len() && units.end * vectors * size <= weights.len());
        assert!(tiling.farthest + (units.end * vectors).saturating_sub(1) * pitch + S::LANES <= maps.len());
        // SAFETY: the CPU has S's instructions, and lanes are below LANES.
        let (gather, scatter) = unsafe {
            // With groups and channels per group exchanged, `lane` is its own inverse.
            (S::index(|i| lane(i, S::LANES, S::LANES / GROUPS)), S::index(|i| lane(i, S::LANES, GROUPS)))
        };
        let (mut inputs, mut products) = (Scratch::<T>::default(), Scratch::<T>::default());
        let inputs = inputs.get(vectors * POSITIONS * M * S::LANES).as_mut_ptr();
        let products = products.get(2 * POSITIONS * M * S::LANES).as_mut_ptr();
        for unit in units.clone() {
            for first in tiles.clone().step_by(M) {
                let first = first.min(tiles.end - M);
                // SAFETY: the CPU has S's instructions; sizes are as asserted, and the scratch buffers as large as requested.
                unsafe {
                    for source in 0..vectors {
                        let from = maps.as_ptr().add((unit * vectors + source) * pitch);
                        for m in 0..M {
                            let to = inputs.add((source * POSITIONS * M + m) * S::LANES);
                            transform_pixels::<S, M, GROUPS>(from, &tiling.reads[first + m], gather, to);
                        }
                    }
                    // Only as much is compiled as the instruction set uses.
                    if const { GROUPS == 1 && M <= 6 && S::TILE == 6 } && in_pairs(S::TILE, vectors) {
                        for vector in (unit * vectors..(unit + 1) * vectors).step_by(2) {
                            self.0
                                .multiply_strip::<S, M, GROUPS, 2>(first, vector, scatter, inputs, products);
                        }
                    } else if const { M != 6 } {
                        for vector in unit * vectors..(unit + 1) * vectors {
                            self.0
                                .multiply_strip::<S, M, GROUPS, 1>(first, vector, scatter, inputs, products);
                        }
                    } else {
                        unreachable!("strips of six tiles are for pairs of vectors");
                    }
                }
            }
        }
    }
}

impl<T: Element, K: TileSink<T>> WinogradTiles<'_, T, K> {
    /// Multiplies the strip of `M` tiles from tile `first` on, transformed in `inputs`, with `V` output vectors from `vector`
    /// on, and passes the sums to the sink.
    ///
    /// # Safety
    /// The CPU has `S`'s instructions; the tiles and vectors exist; `inputs` are those of the vectors' group, and there is
    /// room for `V` vectors of `products`.
    #[inline(always)]
    unsafe fn multiply_strip<S: Simd<T = T>, const M: usize, const GROUPS: usize, const V: usize>(
        &self,
        first: usize,
        vector: usize,
        scatter: S::Index,
        inputs: *const T,
        products: *mut T,
    ) {
        let WinogradTiles { tiling, group, weights, sink, .. } = self;
        let (vectors, size) = (vectors_per_group(S::LANES, *group), POSITIONS * group * S::LANES);
        // SAFETY: the function's contract.
        unsafe {
            let weights = weights.as_ptr().add(vector * size);
            let mut meanwhile = sink.meanwhile();
            let part = |position: usize| first + M * position / POSITIONS;
            for position in 0..POSITIONS {
                (0..V).for_each(|_| meanwhile());
                for tile in part(position)..part(position + 1) {
                    for pixel in tiling.writes(tile).flatten() {
                        for v in 0..V {
                            sink.expect::<S>(pixel, vector + v);
                        }
                    }
                }
                multiply::<S, M, GROUPS, V>(vectors, position, inputs, (weights, size), products);
            }
            for v in 0..V {
                for m in 0..M {
                    let products = products.add((v * POSITIONS * M + m) * S::LANES);
                    let sums = transform_sums::<S, M, GROUPS>(products, scatter);
                    for (pixel, sum) in tiling.writes(first + m).zip(sums) {
                        if let Some(pixel) = pixel {
                            sink.put::<S>(pixel, vector + v, sum);
                        }
                    }
                }
            }
        }
    }
}

/// `Bᵀ d B` of one vector of channels, stored `M` vectors apart.
///
/// # Safety
/// The CPU has `S`'s instructions, all pixels can be read, and 16 vectors can be written.
#[inline(always)]
unsafe fn transform_pixels<S: Simd, const M: usize, const GROUPS: usize>(
    from: *const S::T,
    pixels: &[u32; POSITIONS],
    gather: S::Index,
    to: *mut S::T,
) {
    // SAFETY: the function's contract. Loops and functions rather than closures, which would be compiled without S's
    // instructions.
    unsafe {
        let mut d = [S::zero(); POSITIONS];
        for i in 0..POSITIONS {
            d[i] = S::load(from.add(pixels[i] as usize));
            if GROUPS > 1 {
                d[i] = S::permute(d[i], gather);
            }
        }
        for x in 0..4 {
            [d[x], d[4 + x], d[8 + x], d[12 + x]] = of_pixels::<S>(d[x], d[4 + x], d[8 + x], d[12 + x]);
        }
        for y in 0..4 {
            let row = of_pixels::<S>(d[4 * y], d[4 * y + 1], d[4 * y + 2], d[4 * y + 3]);
            for x in 0..4 {
                S::store(to.add((4 * y + x) * M * S::LANES), row[x]);
            }
        }
    }
}

/// `Bᵀ` times a column.
///
/// # Safety
/// The CPU has `S`'s instructions.
#[inline(always)]
unsafe fn of_pixels<S: Simd>(a: S::V, b: S::V, c: S::V, d: S::V) -> [S::V; 4] {
    // SAFETY: the function's contract.
    unsafe { [S::sub(a, c), S::add(b, c), S::sub(c, b), S::sub(b, d)] }
}

/// One position's sums over the channels of a group, for `M` tiles and `V` output vectors, whose weights are `size` apart.
///
/// # Safety
/// The CPU has `S`'s instructions; the inputs, the weights and room for the products are there.
#[inline(always)]
unsafe fn multiply<S: Simd, const M: usize, const GROUPS: usize, const V: usize>(
    vectors: usize,
    position: usize,
    inputs: *const S::T,
    (weights, size): (*const S::T, usize),
    products: *mut S::T,
) {
    // SAFETY: the function's contract.
    unsafe {
        let mut sums = [[S::zero(); V]; M];
        let depth = S::LANES / GROUPS;
        for source in 0..vectors {
            let inputs = inputs.add((source * POSITIONS + position) * M * S::LANES);
            let weights = weights.add((position * vectors + source) * depth * S::LANES);
            for c in 0..depth {
                let mut w = [S::zero(); V];
                for v in 0..V {
                    w[v] = S::load(weights.add(v * size + c * S::LANES));
                }
                for m in 0..M {
                    let x = inputs.add(m * S::LANES + c * GROUPS);
                    let x = if GROUPS == 1 { S::splat(x) } else { S::splat_two(x) };
                    for v in 0..V {
                        sums[m][v] = S::fma(x, w[v], sums[m][v]);
                    }
                }
            }
        }
        for v in 0..V {
            for m in 0..M {
                S::store(products.add(((v * POSITIONS + position) * M + m) * S::LANES), sums[m][v]);
            }
        }
    }
}

/// `Aᵀ m A` of products that lie `M` vectors apart: 2×2 pixels.
///
/// # Safety
/// The CPU has `S`'s instructions, and the products can be read.
#[inline(always)]
unsafe fn transform_sums<S: Simd, const M: usize, const GROUPS: usize>(
    products: *const S::T,
    scatter: S::Index,
) -> [S::V; 4] {
    // SAFETY: the function's contract.
    unsafe {
        let mut m = [S::zero(); POSITIONS];
        for i in 0..POSITIONS {
            m[i] = S::load(products.add(i * M * S::LANES));
        }
        for x in 0..4 {
            [m[x], m[4 + x]] = of_sums::<S>(m[x], m[4 + x], m[8 + x], m[12 + x]);
        }
        let [a, b] = of_sums::<S>(m[0], m[1], m[2], m[3]);
        let [c, d] = of_sums::<S>(m[4], m[5], m[6], m[7]);
        let mut sums = [a, b, c, d];
        if GROUPS > 1 {
            for i in 0..4 {
                sums[i] = S::permute(sums[i], scatter);
            }
        }
        sums
    }
}

/// `Aᵀ` times a column.
///
/// # Safety
/// The CPU has `S`'s instructions.
#[inline(always)]
unsafe fn of_sums<S: Simd>(a: S::V, b: S::V, c: S::V, d: S::V) -> [S::V; 2] {
    // SAFETY: the function's contract.
    unsafe { [S::add(S::add(a, b), c), S::sub(S::sub(b, c), d)] }
}

/// Writes a vector's weights: `G g Gᵀ` of the 3×3 kernels `kernel(output channel, input channel)`, row-major. Output
/// channels are counted within the vector, input channels within the group.
pub fn transform_kernels<T: Element>(
    isa: Isa,
    group: usize,
    values: &mut [T],
    kernel: impl Fn(usize, usize) -> [T; 9],
) {
    dispatch(isa, Kernels { group, values, kernel });
}

struct Kernels<'a, T, F> {
    group: usize,
    values: &'a mut [T],
    kernel: F,
}

impl<T: Element, F: Fn(usize, usize) -> [T; 9]> Kernel<T> for Kernels<'_, T, F> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = T>>(self) {
        let Kernels { group, values, kernel } = self;
        assert!(supports(S::LANES, group) && values.len() == POSITIONS * group * S::LANES);
        // Several at a time: reading a vector right after its last lane was written would stall.
        const BLOCK: usize = 8;
        let mut taps = [[[T::ZERO; MAX_LANES]; 9]; BLOCK];
        for first in (0..group).step_by(BLOCK) {
            let block = BLOCK.min(group - first);
            for channel in 0..S::LANES {
                let lane = lane(channel, S::LANES, (S::LANES / group).max(1));
                for (c, taps) in taps[..block].iter_mut().enumerate() {
                    let kernel = kernel(channel, first + c);
                    for i in 0..9 {
                        taps[i][lane] = kernel[i];
                    }
                }
            }
            for (c, taps) in taps[..block].iter().enumerate() {
                // SAFETY: the CPU has S's instructions; the values are as many as asserted.
                unsafe {
                    let mut g = [S::zero(); 12];
                    for i in 0..9 {
                        g[i] = S::load(taps[i].as_ptr());
                    }
                    for x in 0..3 {
                        [g[x], g[3 + x], g[6 + x], g[9 + x]] = of_kernels::<S>(g[x], g[3 + x], g[6 + x]);
                    }
                    for y in 0..4 {
                        let row = of_kernels::<S>(g[3 * y], g[3 * y + 1], g[3 * y + 2]);
                        for x in 0..4 {
                            let at = ((4 * y + x) * group + first + c) * S::LANES;
                            S::store(values.as_mut_ptr().add(at), row[x]);
                        }
                    }
                }
            }
        }
    }
}

/// `G` times a column.
///
/// # Safety
/// The CPU has `S`'s instructions.
#[inline(always)]
unsafe fn of_kernels<S: Simd>(a: S::V, b: S::V, c: S::V) -> [S::V; 4] {
    // SAFETY: the function's contract.
    unsafe {
        let half = S::splat(&S::T::of_f64(0.5));
        let (outer, zero) = (S::add(a, c), S::zero());
        [a, S::fma(S::add(outer, b), half, zero), S::fma(S::sub(outer, b), half, zero), c]
    }
}
