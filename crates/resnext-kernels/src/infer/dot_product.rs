//! The dot products of words of channels that inference's kernels are built of, one type per precision and instruction set.

use crate::simd::traits::{Simd, Storage};
use half::bf16;

/// The dot product of two words: one f32 product, the sum of two bf16 products in f32, or of four int8 products in i32.
///
/// Vectors of words and of sums are loaded and stored by `S` as if they were f32, whatever they hold.
///
/// To add a precision: a variant of `Precision` and of `MapType`, an implementation of this trait and an arm of
/// `Precision::dispatch`; its packing in `direct.rs`; its maps in `max_pool.rs`, `quantize.rs` and, in resnext-ops,
/// `element.rs` and `infer/`. A sum takes one 32-bit lane per output channel.
///
/// # Safety
/// Every method may only be called where the CPU has the instructions; pointers to channels need `S::LANES`
/// of them, of [`BYTES`](Self::BYTES) each, with any alignment.
pub trait DotProduct {
    type S: Simd<T = f32>;
    /// Channels per word of the input.
    const CHANNELS: usize;
    /// Bytes per channel of the output and of a residual.
    const BYTES: usize = 4 / Self::CHANNELS;
    /// Whether a sum has to be multiplied by its output channel's scale.
    const SCALED: bool = false;
    /// Whether the direct kernel has tiles of rows for it, which take long to compile.
    const ROWS: bool = true;
    /// A vector of words, from the channels in memory: those of [`S::LANES`](Simd::LANES) words.
    #[inline(always)]
    unsafe fn words(channels: *const u8) -> V<Self> {
        // SAFETY: the same contract.
        unsafe { Self::S::load(channels.cast()) }
    }
    /// A vector of words like `words`, in an order that keeps the words of a group of four channels in one half of the
    /// vector, where [`load_broadcast4`](Simd::load_broadcast4) repeats them.
    #[inline(always)]
    unsafe fn words_in_halves(channels: *const u8) -> V<Self> {
        // SAFETY: the same contract.
        unsafe { Self::words(channels) }
    }
    /// `sums + x · w`, summed over the channels of each word.
    unsafe fn dot(x: V<Self>, w: V<Self>, sums: V<Self>) -> V<Self>;
    /// Converts sums to f32.
    #[inline(always)]
    unsafe fn number(sums: V<Self>) -> V<Self> {
        sums
    }
    /// `a · b + c`, rounded once: with plain Rust, too, where integer sums are scaled, so that all machines agree.
    #[inline(always)]
    unsafe fn fused(a: V<Self>, b: V<Self>, c: V<Self>) -> V<Self> {
        // SAFETY: the same contract.
        unsafe { Self::S::fma(a, b, c) }
    }
    /// Loads as many channels as a vector has lanes, widened to f32.
    unsafe fn load(channels: *const u8) -> V<Self>;
    /// `sums` plus as many channels, widened. Subnormal channels may count as zero.
    #[inline(always)]
    unsafe fn add(channels: *const u8, sums: V<Self>) -> V<Self> {
        // SAFETY: the same contract.
        unsafe { Self::S::add(sums, Self::load(channels)) }
    }
    /// The reverse of `load`: rounded to the nearest, ties to even, and saturated at the upper end. For unsigned channels no
    /// value may be negative.
    unsafe fn store(channels: *mut u8, values: V<Self>);
    /// Stores two vectors of channels, one after the other.
    #[inline(always)]
    unsafe fn store_both(channels: *mut u8, values: [V<Self>; 2]) {
        // SAFETY: the caller promises two vectors' channels.
        unsafe {
            Self::store(channels, values[0]);
            Self::store(channels.add(Self::S::LANES * Self::BYTES), values[1]);
        }
    }
    /// Loads one channel, widened.
    #[inline(always)]
    unsafe fn load_one(channel: *const u8) -> f32 {
        // SAFETY: the caller promises a channel.
        unsafe {
            match Self::BYTES {
                4 => channel.cast::<f32>().read_unaligned(),
                2 => channel.cast::<bf16>().read_unaligned().widen(),
                _ => f32::from(*channel),
            }
        }
    }
    /// Stores one channel, as `store` does.
    #[inline(always)]
    unsafe fn store_one(channel: *mut u8, value: f32) {
        // SAFETY: as above.
        unsafe {
            match Self::BYTES {
                4 => channel.cast::<f32>().write_unaligned(value),
                2 => channel.cast::<bf16>().write_unaligned(bf16::narrow(value)),
                _ => *channel = value.round_ties_even() as u8,
            }
        }
    }
}

/// A vector of words or of sums.
pub type V<W> = <<W as DotProduct>::S as Simd>::V;

/// One f32 per word.
pub struct F32<S>(std::marker::PhantomData<S>);

impl<S: Simd<T = f32>> DotProduct for F32<S> {
    type S = S;
    const CHANNELS: usize = 1;
    #[inline(always)]
    unsafe fn dot(x: S::V, w: S::V, sums: S::V) -> S::V {
        // SAFETY: the same contract.
        unsafe { S::fma(x, w, sums) }
    }
    #[inline(always)]
    unsafe fn load(channels: *const u8) -> S::V {
        // SAFETY: the same contract.
        unsafe { S::load(channels.cast()) }
    }
    #[inline(always)]
    unsafe fn store(channels: *mut u8, values: S::V) {
        // SAFETY: the same contract.
        unsafe { S::store(channels.cast(), values) }
    }
}
