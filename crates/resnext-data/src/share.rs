//! The part of an epoch's batches that one of several processes makes.

use std::ops::Range;

/// Which part of each epoch a loader makes, so that processes that train one network together see every image
/// once. It depends on nothing but the process's rank and their number, and batches on nothing but the epoch and
/// the seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Share {
    /// All of it.
    #[default]
    Whole,
    /// Part number `rank` of `of` of every batch, for training: consecutive images, whose numbers differ by at
    /// most one between ranks. A rank past the last one has none, and a batch with fewer images than parts leaves some
    /// ranks without one.
    PartOfEachBatch {
        /// The process's number, from 0.
        rank: usize,
        /// The number of processes, at least 1.
        of: usize,
    },
    /// The whole batches `rank`, `rank + of`, `rank + 2·of`, …, for evaluation.
    EveryNthBatch {
        /// The process's number, from 0.
        rank: usize,
        /// The number of processes, at least 1.
        of: usize,
    },
}

impl Share {
    /// This share's batches of the images at `positions` of an epoch's order, as ranges of positions, none of which
    /// is empty.
    pub(crate) fn batches(self, positions: Range<usize>, batch_size: usize) -> Vec<Range<usize>> {
        let whole = positions.clone().step_by(batch_size);
        let whole = whole.map(|start| start..positions.end.min(start + batch_size));
        match self {
            Share::Whole => whole.collect(),
            Share::EveryNthBatch { rank, of } => whole.skip(rank).step_by(of.max(1)).collect(),
            Share::PartOfEachBatch { rank, of } => {
                let part = |batch: Range<usize>| {
                    let at = |rank: usize| batch.start + batch.len() * rank.min(of) / of.max(1);
                    at(rank)..at(rank + 1)
                };
                whole.map(part).filter(|part| !part.is_empty()).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every image is in one share, whatever the sizes, and the shares of a batch differ by at most one image.
    #[test]
    fn shares_are_disjoint_and_complete() {
        for (skip, len, batch_size, of) in
            [(0, 51, 8, 3), (13, 50, 8, 2), (0, 7, 16, 4), (5, 5, 4, 2), (0, 9, 1, 1)]
        {
            let parts = |share: fn(usize, usize) -> Share| -> Vec<Vec<Range<usize>>> {
                (0..of).map(|rank| share(rank, of).batches(skip..len, batch_size)).collect()
            };
            let whole = Share::Whole.batches(skip..len, batch_size);
            let training = parts(|rank, of| Share::PartOfEachBatch { rank, of });
            for (number, batch) in whole.iter().enumerate() {
                let parts: Vec<Range<usize>> = training.iter().map(|rank| rank[number].clone()).collect();
                assert_eq!((parts[0].start, parts[of - 1].end), (batch.start, batch.end));
                assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
                let sizes = parts.iter().map(Range::len);
                assert!(sizes.clone().max() <= sizes.min().map(|least| least + 1));
            }
            let evaluation = parts(|rank, of| Share::EveryNthBatch { rank, of });
            let merged: Vec<Range<usize>> =
                (0..whole.len()).map(|number| evaluation[number % of][number / of].clone()).collect();
            assert_eq!(merged, whole);
        }
    }

    /// Ranks without an image of a batch have no batch either.
    #[test]
    fn there_are_no_empty_batches() {
        let parts = |rank| Share::PartOfEachBatch { rank, of: 4 }.batches(0..3, 8);
        assert_eq!((0..4).map(|rank| parts(rank).len()).collect::<Vec<_>>(), [0, 1, 1, 1]);
    }
}
