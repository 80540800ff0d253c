//! Random numbers that belong to one image in one epoch, whichever thread draws them.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The index, which no image has, whose stream shuffles an epoch.
const SHUFFLE: u64 = u32::MAX as u64;

/// The random numbers of image `index` in `epoch`.
pub(crate) fn of_image(seed: u64, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch << 32 | index);
    rng
}

/// A permutation of `0..len` that depends on the seed and the epoch, or on another number in its place.
pub(crate) fn shuffled(seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    shuffle(&mut of_epoch(seed, epoch), &mut order);
    order
}

/// The random numbers that decide the order of `epoch`.
pub(crate) fn of_epoch(seed: u64, epoch: u64) -> ChaCha8Rng {
    of_image(seed, epoch, SHUFFLE)
}

/// Brings items into a random order.
pub(crate) fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.random_range(0..=i));
    }
}

/// The random numbers of the batch that begins at position `start` of an epoch. There are fewer than 2³¹ images,
/// so that none has the same.
pub(crate) fn of_batch(seed: u64, epoch: u64, start: u64) -> ChaCha8Rng {
    of_image(seed, epoch, 1 << 31 | start)
}
