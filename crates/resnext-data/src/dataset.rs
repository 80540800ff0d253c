//! Labelled images in memory.

use rayon::prelude::*;

/// Channels of every image: red, green, blue.
pub const CHANNELS: usize = 3;

/// Labelled images of one size, 8 bits a channel, planar: all of red, then green, then blue.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    pixels: Vec<u8>,
    labels: Vec<u32>,
    height: usize,
    width: usize,
    class_names: Vec<String>,
}

/// A training set, a test set and how their pixels are normalised.
#[derive(Debug, Clone)]
pub struct Splits {
    /// To learn from.
    pub train: Dataset,
    /// To be judged by.
    pub test: Dataset,
    /// Of the training set.
    pub normalization: Normalization,
}

/// Mean and standard deviation of each channel, of pixels scaled to 0..=1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Mean of red, green, blue.
    pub mean: [f32; CHANNELS],
    /// Standard deviation of red, green, blue.
    pub std: [f32; CHANNELS],
}

impl Dataset {
    /// Puts a set together; `pixels` holds 3·`height`·`width` bytes a label.
    ///
    /// # Panics
    /// If lengths do not fit or a label has no name: readers check their files first.
    pub(crate) fn new(
        pixels: Vec<u8>,
        labels: Vec<u32>,
        (height, width): (usize, usize),
        class_names: Vec<String>,
    ) -> Self {
        assert_eq!(pixels.len(), labels.len() * CHANNELS * height * width);
        assert!(labels.iter().all(|&label| (label as usize) < class_names.len()));
        Dataset { pixels, labels, height, width, class_names }
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Height and width of every image in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// The planar pixels of image `index`, which must be below [`len`](Self::len).
    pub fn image(&self, index: usize) -> &[u8] {
        let len = CHANNELS * self.height * self.width;
        &self.pixels[index * len..(index + 1) * len]
    }

    /// The class of image `index`, which must be below [`len`](Self::len).
    pub fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    /// The names of the classes, by label.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Mean and standard deviation of this set's own pixels.
    pub fn normalization(&self) -> Normalization {
        let plane = self.height * self.width;
        let sums = (0..self.len())
            .into_par_iter()
            .map(|i| {
                let mut sums = [[0u64; 2]; CHANNELS];
                for (sum, plane) in sums.iter_mut().zip(self.image(i).chunks_exact(plane)) {
                    for &p in plane {
                        sum[0] += p as u64;
                        sum[1] += p as u64 * p as u64;
                    }
                }
                sums
            })
            .reduce(Default::default, |a, b| {
                std::array::from_fn(|c| std::array::from_fn(|k| a[c][k] + b[c][k]))
            });
        let count = (self.len() * plane).max(1) as f64;
        let mean = sums.map(|[sum, _]| sum as f64 / count / 255.0);
        let var: [f64; CHANNELS] =
            std::array::from_fn(|c| sums[c][1] as f64 / count / 65025.0 - mean[c] * mean[c]);
        // An image set of one colour has no spread; 1 leaves it at zero instead of dividing by it.
        let std = var.map(|v| if v > 1e-12 { v.sqrt() as f32 } else { 1.0 });
        Normalization { mean: mean.map(|m| m as f32), std }
    }
}
