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

/// A process's part of a batch, as positions in an epoch's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchPart {
    /// The process's own images.
    pub own: Range<usize>,
    /// Those of all processes.
    pub batch: Range<usize>,
}

impl Share {
    /// This share's batches of the images at `positions` of an epoch's order, none of which is empty.
    pub(crate) fn batches(self, positions: Range<usize>, batch_size: usize) -> Vec<BatchPart> {
        let whole = positions.clone().step_by(batch_size);
        let whole = whole.map(|start| start..positions.end.min(start + batch_size));
        let whole = whole.map(|batch| BatchPart { own: batch.clone(), batch });
        match self {
            Share::Whole => whole.collect(),
            Share::EveryNthBatch { rank, of } => whole.skip(rank).step_by(of.max(1)).collect(),
            Share::PartOfEachBatch { rank, of } => {
                let part = |BatchPart { batch, .. }: BatchPart| {
                    let at = |rank: usize| batch.start + batch.len() * rank.min(of) / of.max(1);
                    BatchPart { own: at(rank)..at(rank + 1), batch }
                };
                whole.map(part).filter(|part| !part.own.is_empty()).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::Augmentation;
    use crate::dataset::Normalization;
    use crate::loader::{Loader, LoaderConfig};
    use crate::synthetic::splits;
    use crate::transform::mix::Mix;
    use std::sync::Arc;

    /// Every image is in one share, whatever the sizes, and the shares of a batch differ by at most one image.
    #[test]
    fn shares_are_disjoint_and_complete() {
        for (skip, len, batch_size, of) in
            [(0, 51, 8, 3), (13, 50, 8, 2), (0, 7, 16, 4), (5, 5, 4, 2), (0, 9, 1, 1)]
        {
            let parts = |share: fn(usize, usize) -> Share| -> Vec<Vec<Range<usize>>> {
                let batches = |rank| share(rank, of).batches(skip..len, batch_size);
                (0..of).map(|rank| batches(rank).into_iter().map(|part| part.own).collect()).collect()
            };
            let whole = Share::Whole.batches(skip..len, batch_size);
            let whole: Vec<Range<usize>> = whole.into_iter().map(|part| part.batch).collect();
            for rank in 0..of {
                let parts = Share::PartOfEachBatch { rank, of }.batches(skip..len, batch_size);
                assert!(parts.iter().all(|part| whole.contains(&part.batch)));
            }
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

    /// The parts of a batch are mixed alike, those of one image among them, as the whole batch of one process is: all or
    /// none, with the same share.
    #[test]
    fn parts_of_a_batch_are_mixed_alike() {
        let set = Arc::new(splits(8, 41, 1).train);
        let mix = Mix { mixup: 0.4, cutmix: 1.0, probability: 0.5, switch: 0.5, until: None };
        let loader = |share| {
            let config = LoaderConfig {
                batch_size: 5,
                shuffle: true,
                augmentation: Augmentation::default(),
                mix: Some(mix),
                seed: 3,
                threads: 1,
            };
            let normalization = Normalization { mean: [0.5; 3], std: [0.25; 3] };
            Loader::new(Arc::clone(&set), normalization, config).unwrap().with_share(share)
        };
        let shares = |share| -> Vec<Option<f32>> {
            let batches = loader(share).epoch(1, 1);
            batches.map(|batch| batch.mixed.map(|mixed| mixed.own)).collect()
        };
        let whole = shares(Share::Whole);
        assert!(whole.contains(&None) && whole.iter().flatten().count() > 1, "{whole:?}");
        for rank in 0..4 {
            assert_eq!(shares(Share::PartOfEachBatch { rank, of: 4 }), whole, "rank {rank}");
        }
    }

    /// Ranks without an image of a batch have no batch either.
    #[test]
    fn there_are_no_empty_batches() {
        let parts = |rank| Share::PartOfEachBatch { rank, of: 4 }.batches(0..3, 8);
        assert_eq!((0..4).map(|rank| parts(rank).len()).collect::<Vec<_>>(), [0, 1, 1, 1]);
    }
}
