//! Labelled images of one size, in memory.

use crate::fnv::fnv1a;
use rayon::prelude::*;

/// The number of channels of every image: red, green and blue.
pub const CHANNELS: usize = 3;

/// Labelled RGB images of one size, `u8` per channel, stored planar (N, 3, H, W).
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    pixels: Vec<u8>,
    labels: Vec<u32>,
    height: usize,
    width: usize,
    class_names: Vec<String>,
}

/// A data set's training and test splits, and the normalisation for both.
#[derive(Debug, Clone)]
pub struct Splits {
    /// The training split.
    pub train: Dataset,
    /// The test split.
    pub test: Dataset,
    /// Mean and standard deviation of the training split.
    pub normalization: Normalization,
}

/// Per-channel mean and standard deviation, for pixels scaled to [0, 1]: an input is `(pixel / 255 - mean) /
/// std`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Mean of red, green and blue.
    pub mean: [f32; CHANNELS],
    /// Standard deviation of red, green and blue.
    pub std: [f32; CHANNELS],
}

impl Dataset {
    /// Builds a data set from planar `pixels`, 3·`height`·`width` bytes per label.
    ///
    /// # Panics
    /// If the lengths disagree or a label has no class name. Readers validate their files first.
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

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Height and width of every image, in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// The pixels of image `index`, planar (3, H, W).
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn image(&self, index: usize) -> &[u8] {
        let len = CHANNELS * self.height * self.width;
        &self.pixels[index * len..(index + 1) * len]
    }

    /// The class of image `index`: an index into [`class_names`](Self::class_names).
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    /// The class names, indexed by label.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The number of images of each class, indexed by label.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        self.labels.iter().for_each(|&label| counts[label as usize] += 1);
        counts
    }

    /// `images` of these images, in the same order: the first ones of each class, and the same number of each,
    /// or one more of the first classes where the number does not divide. A class with fewer images is taken
    /// whole, and the others make up for it. All images if there are no more.
    pub fn balanced_subset(&self, images: usize) -> Dataset {
        let mut by_class = vec![Vec::new(); self.class_names.len()];
        for (index, &label) in self.labels.iter().enumerate() {
            by_class[label as usize].push(index);
        }
        let most = by_class.iter().map(Vec::len).max().unwrap_or(0);
        let rounds = (0..most).flat_map(|i| by_class.iter().filter_map(move |own| own.get(i)));
        let mut chosen: Vec<usize> = rounds.take(images).copied().collect();
        chosen.sort_unstable();
        Dataset {
            pixels: chosen.iter().flat_map(|&index| self.image(index)).copied().collect(),
            labels: chosen.iter().map(|&index| self.labels[index]).collect(),
            class_names: self.class_names.clone(),
            ..*self
        }
    }

    /// A line that tells this set from others: its size, and a hash of labels, class names and the pixels of
    /// up to 256 images spread over the set.
    pub fn fingerprint(&self) -> String {
        let step = self.len().div_ceil(256).max(1);
        let pixels = (0..self.len()).step_by(step).flat_map(|i| self.image(i)).copied();
        let hash = fnv1a(pixels.chain(self.class_bytes()));
        let Dataset { height, width, .. } = self;
        let classes = self.class_names.len();
        format!("{} images of {height}×{width} in {classes} classes ({hash:016x})", self.len())
    }

    /// A hash of all pixels, labels and class names, with which two processes see whether they have the same set.
    pub fn content_hash(&self) -> u64 {
        fnv1a(self.pixels.iter().copied().chain(self.class_bytes()))
    }

    /// The bytes of all labels and class names, for hashes.
    fn class_bytes(&self) -> impl Iterator<Item = u8> {
        let labels = self.labels.iter().flat_map(|label| label.to_le_bytes());
        labels.chain(self.class_names.iter().flat_map(|name| name.bytes().chain([0])))
    }

    /// Computes the mean and standard deviation of these images' pixels. Sums are integers, so the result
    /// does not depend on the number of threads.
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
        // A constant channel has a deviation of 0; dividing by 1 instead maps it to zeros.
        let std = var.map(|v| if v > 1e-12 { v.sqrt() as f32 } else { 1.0 });
        Normalization { mean: mean.map(|m| m as f32), std }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balanced_subset_has_the_first_images_of_each_class() {
        let labels = vec![0, 0, 0, 1, 2, 2];
        let pixels = (0..6u8).flat_map(|i| [i; CHANNELS]).collect();
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let set = Dataset::new(pixels, labels, (1, 1), names);
        let kept = |images: usize| {
            let subset = set.balanced_subset(images);
            (0..subset.len()).map(|i| (subset.image(i)[0], subset.label(i))).collect::<Vec<_>>()
        };
        assert_eq!(kept(3), [(0, 0), (3, 1), (4, 2)]);
        assert_eq!(kept(5), [(0, 0), (1, 0), (3, 1), (4, 2), (5, 2)]);
        assert_eq!(kept(0), []);
        assert_eq!(set.balanced_subset(7), set);
        assert_ne!(set.balanced_subset(5).fingerprint(), set.fingerprint());
    }

    /// A fingerprint samples a large set; the hash of the content sees every pixel, label and name.
    #[test]
    fn a_content_hash_sees_every_image() {
        let set = |changed: Option<usize>, label: u32, name: &str| {
            let pixels =
                (0..600usize).flat_map(|i| [if changed == Some(i) { 9 } else { 5 }; CHANNELS]).collect();
            let names = vec!["a".to_string(), name.to_string()];
            Dataset::new(pixels, vec![0; 599].into_iter().chain([label]).collect(), (1, 1), names)
        };
        let first = set(None, 0, "b");
        for other in [set(Some(1), 0, "b"), set(None, 1, "b"), set(None, 0, "c")] {
            assert_ne!(other.content_hash(), first.content_hash());
        }
        assert_eq!(set(Some(1), 0, "b").fingerprint(), first.fingerprint());
        assert_eq!(first.clone().content_hash(), first.content_hash());
    }
}
