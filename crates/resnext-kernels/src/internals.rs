//! Parts that this crate's own tests check, in `tests/`. They are not part of the interface, and may change at any time.
//!
//! The tests are a program of their own: as unit tests they would need the library compiled a second time.

pub use crate::group_lanes::{channel_panels, spans_groups};
pub use crate::infer::precision::{bytes, bytes_mut};
pub use crate::infer::source_rows::SourceRows;
pub use crate::memory::scratch::Scratch;
pub use crate::simd::amx::{Amx, Emulated, Sums, TileOperands, TileShape, TileUnit};
pub use crate::threads::standby::{SPIN, submit};
pub use crate::train::packing::{LineCursor, PixelLines, PixelRun, Prefetch, plane_len};

use crate::simd::dispatch::{Isa, dispatch, lanes};
use crate::simd::traits::{Kernel, Simd, Storage};
use crate::train::operand::Operand;
use crate::train::packing::Pack;
use half::bf16;
use std::ops::Range;

/// Packs some channels of an operand that has `channels` into planes of `plane` elements, as training's kernels do.
pub fn pack(
    isa: Isa,
    operand: Operand<f32>,
    channels: usize,
    packed: Range<usize>,
    runs: &[PixelRun],
    planes: &mut [f32],
    plane: usize,
) {
    let (first, width) = (packed.start, packed.len());
    Pack { operand, channels, first, width, runs, planes, plane }.pack(isa);
}

/// Stores `from` as bf16, as kernels store their vectors.
///
/// # Panics
/// If the slices differ in length, or are not whole vectors.
pub fn store_bf16(isa: Isa, from: &[f32], to: &mut [bf16]) {
    move_vectors(isa, Move::Store(from, to));
}

/// Loads `from`, as kernels load their vectors.
///
/// # Panics
/// If the slices differ in length, or are not whole vectors.
pub fn load_bf16(isa: Isa, from: &[bf16], to: &mut [f32]) {
    move_vectors(isa, Move::Load(from, to));
}

fn move_vectors(isa: Isa, vectors: Move) {
    let (from, to) = match &vectors {
        Move::Store(from, to) => (from.len(), to.len()),
        Move::Load(from, to) => (from.len(), to.len()),
    };
    assert!(from == to && to.is_multiple_of(lanes::<f32>(isa)));
    dispatch(isa, vectors);
}

/// Vectors from f32 to bf16, or back.
enum Move<'a> {
    Store(&'a [f32], &'a mut [bf16]),
    Load(&'a [bf16], &'a mut [f32]),
}

impl Kernel<f32> for Move<'_> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = f32>>(self) {
        // SAFETY: the CPU has S's instructions; `move_vectors` asserted that slices are of one length, which LANES divides.
        unsafe {
            match self {
                Move::Store(from, to) => {
                    for i in (0..to.len()).step_by(S::LANES) {
                        bf16::store::<S>(to[i..].as_mut_ptr(), S::load(from[i..].as_ptr()));
                    }
                }
                Move::Load(from, to) => {
                    for i in (0..to.len()).step_by(S::LANES) {
                        S::store(to[i..].as_mut_ptr(), bf16::load::<S>(from[i..].as_ptr()));
                    }
                }
            }
        }
    }
}
