//! Stochastic depth: blocks that are left out at random in training.

use candle_core::{Result, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Stochastic depth (Huang et al., arXiv 1603.09382) of one batch: for each image and block, the block's
/// branch is left out with some probability, and divided by the probability of staying otherwise. What is
/// left out depends on nothing but these fields, the block and the place of the image in the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropPath {
    /// The probability at the last block, from 0 to below 1. It rises linearly from 0 at the first one.
    pub rate: f64,
    /// The seed of a run.
    pub seed: u64,
    /// The number of the draw, another one for each batch of the run.
    pub draw: u64,
}

/// Keeps these random numbers apart from others with the run's seed.
const PURPOSE: u64 = 0x9e37_79b9_7f4a_7c15;

impl DropPath {
    /// The factors (N) for the branches of a batch `x` (N, C, H, W) in block `block` of `blocks`, counted from
    /// 0: 0 for images whose branch is left out. `None` for a block that stays for all.
    pub(crate) fn factors(&self, block: usize, blocks: usize, x: &Tensor) -> Result<Option<Tensor>> {
        let rate = self.rate * block as f64 / blocks.saturating_sub(1).max(1) as f64;
        if rate <= 0.0 {
            return Ok(None);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ PURPOSE ^ ((block as u64) << 48));
        rng.set_stream(self.draw);
        let images = x.dim(0)?;
        let keep = (1.0 / (1.0 - rate)) as f32;
        let factors = (0..images).map(|_| if rng.random::<f64>() < rate { 0.0 } else { keep });
        Ok(Some(Tensor::from_vec(factors.collect(), images, x.device())?.to_dtype(x.dtype())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn branches_are_dropped_as_often_as_asked_and_the_same_ones_again() {
        let x = Tensor::zeros((4000, 1, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let of = |draw, block| {
            let drop_path = DropPath { rate: 0.4, seed: 7, draw };
            drop_path.factors(block, 5, &x).unwrap().map(|factors| factors.to_vec1::<f32>().unwrap())
        };
        assert_eq!(of(1, 0), None);
        let factors = of(1, 2).unwrap();
        assert_eq!(of(1, 2).unwrap(), factors);
        assert_ne!(of(2, 2).unwrap(), factors);
        assert_ne!(of(1, 4).unwrap(), factors);
        for (block, rate) in [(1, 0.1), (2, 0.2), (4, 0.4)] {
            let factors = of(3, block).unwrap();
            let dropped = factors.iter().filter(|&&factor| factor == 0.0).count() as f64 / 4000.0;
            assert!((dropped - rate).abs() < 0.03, "{dropped} instead of {rate}");
            let mean = factors.iter().sum::<f32>() / 4000.0;
            assert!((mean - 1.0).abs() < 0.05, "the branch counts {mean} times");
        }
    }
}
