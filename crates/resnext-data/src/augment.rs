//! Training augmentation (shifted crop, horizontal flip) and normalisation, in one pass over an image.

use crate::dataset::{CHANNELS, Dataset, Normalization};
use rand::{Rng, RngExt};

/// Random changes applied to each training image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Augmentation {
    /// Pixels of zero padding per side; a crop of the original size is then taken at a random position. 0
    /// disables it.
    pub pad: usize,
    /// Whether each image is flipped left to right with probability 1/2.
    pub flip: bool,
}

impl Augmentation {
    /// CIFAR's standard augmentation (the paper's section 5.3): pad by 4, crop to 32×32, flip.
    pub fn cifar() -> Self {
        Augmentation { pad: 4, flip: true }
    }

    /// Augments and normalises image `index` of `dataset` into `out`, (H, W, 3). `rng` decides shift and
    /// flip.
    pub(crate) fn write(
        &self,
        dataset: &Dataset,
        index: usize,
        normalization: &Normalization,
        rng: &mut impl Rng,
        out: &mut [f32],
    ) {
        let (height, width) = dataset.size();
        let image = dataset.image(index);
        let mut shift = || rng.random_range(0..=2 * self.pad) as isize - self.pad as isize;
        let (dy, dx) = if self.pad > 0 { (shift(), shift()) } else { (0, 0) };
        let mirrored = self.flip && rng.random::<bool>();
        let scale: [f32; CHANNELS] = std::array::from_fn(|c| 1.0 / (255.0 * normalization.std[c]));
        let offset: [f32; CHANNELS] = std::array::from_fn(|c| -normalization.mean[c] / normalization.std[c]);
        for (i, pixel) in out.chunks_exact_mut(CHANNELS).enumerate() {
            let (y, x) = (i / width, i % width);
            let x = if mirrored { width - 1 - x } else { x };
            let (y, x) = (y as isize + dy, x as isize + dx);
            let inside = (0..height as isize).contains(&y) && (0..width as isize).contains(&x);
            for c in 0..CHANNELS {
                let value = if inside { image[(c * height + y as usize) * width + x as usize] } else { 0 };
                pixel[c] = value as f32 * scale[c] + offset[c];
            }
        }
    }
}
