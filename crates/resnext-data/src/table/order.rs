//! A random order of images that are read in blocks, of which a few are in memory at a time.

use crate::random_stream::{of_epoch, shuffle, shuffled};
use rand::RngExt;
use std::ops::Range;

/// The most bytes of blocks that an order draws images from at a time, unless a single block has more. Below what is kept in
/// memory, because a block may have more bytes than its share of the row group's.
const OPEN_BYTES: u64 = 48 << 20;

/// A permutation of the images of `blocks`, which are consecutive ranges, each with its number of bytes. It depends on
/// nothing but these, the seed and the epoch.
///
/// If there are few enough bytes it is any permutation. Otherwise blocks are opened one after the other in a random order, as
/// many at a time as [`OPEN_BYTES`] has room for, and each image comes from one of the open blocks, chosen at random: a batch
/// mixes images from many places of a file in which they are sorted.
pub fn mixed(seed: u64, epoch: u64, blocks: &[(Range<usize>, u64)]) -> Vec<usize> {
    let len = blocks.iter().map(|(images, _)| images.len()).sum();
    if blocks.iter().map(|(_, bytes)| bytes).sum::<u64>() <= OPEN_BYTES {
        return shuffled(seed, epoch, len);
    }
    let mut rng = of_epoch(seed, epoch);
    let mut closed: Vec<_> = blocks.iter().filter(|(images, _)| !images.is_empty()).collect();
    shuffle(&mut rng, &mut closed);
    let mut open: Vec<(Vec<usize>, u64)> = Vec::new();
    let (mut order, mut open_bytes) = (Vec::with_capacity(len), 0);
    loop {
        while let Some((images, bytes)) =
            closed.pop_if(|(_, bytes)| open.is_empty() || open_bytes + *bytes <= OPEN_BYTES)
        {
            open_bytes += bytes;
            open.push((images.clone().collect(), *bytes));
        }
        if open.is_empty() {
            return order;
        }
        let block = rng.random_range(0..open.len());
        let (images, bytes) = &mut open[block];
        order.push(images.swap_remove(rng.random_range(0..images.len())));
        if images.is_empty() {
            open_bytes -= *bytes;
            open.swap_remove(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 400 blocks of 10 images and a megabyte.
    fn blocks() -> Vec<(Range<usize>, u64)> {
        (0..400).map(|block| (10 * block..10 * (block + 1), 1 << 20)).collect()
    }

    #[test]
    fn every_image_comes_once_and_in_another_order_in_each_epoch() {
        let orders = [(1, 0), (1, 1), (2, 0)].map(|(seed, epoch)| mixed(seed, epoch, &blocks()));
        assert_ne!(orders[0], orders[1]);
        assert_ne!(orders[0], orders[2]);
        assert_eq!(orders[0], mixed(1, 0, &blocks()));
        for mut order in orders {
            order.sort();
            assert!(order.into_iter().eq(0..4000));
        }
    }

    /// Blocks are used for a time each, so that few are in memory, and a batch has images of many of them.
    #[test]
    fn few_blocks_are_in_use_at_a_time() {
        let order = mixed(3, 0, &blocks());
        let (mut first, mut last) = ([usize::MAX; 400], [0; 400]);
        for (position, image) in order.iter().enumerate() {
            first[image / 10] = first[image / 10].min(position);
            last[image / 10] = position;
        }
        let in_use =
            |position| (0..400).filter(|&block| (first[block]..=last[block]).contains(&position)).count();
        assert!((0..4000).all(|position| in_use(position) <= 48));
        for batch in order.chunks(64).take(50) {
            let mut blocks: Vec<usize> = batch.iter().map(|image| image / 10).collect();
            blocks.sort();
            blocks.dedup();
            assert!(blocks.len() > 24, "{blocks:?}");
        }
    }

    /// Blocks of any size: empty ones, and one that alone is larger than what may be open.
    #[test]
    fn blocks_may_have_any_size() {
        let blocks = [(0..0, 1 << 40), (0..3, 1 << 40), (3..3, 0), (3..9, 1), (9..10, 1 << 26)];
        for epoch in 0..20 {
            let mut order = mixed(0, epoch, &blocks);
            order.sort();
            assert!(order.into_iter().eq(0..10));
        }
        assert_eq!(mixed(0, 0, &[]), [0; 0]);
    }
}
