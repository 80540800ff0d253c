//! Which classes are taken for which.

/// Counts of test images by label and predicted class.
#[derive(Debug, Clone, PartialEq)]
pub struct Confusion {
    /// Indexed by label, then by prediction.
    counts: Vec<Vec<usize>>,
}

/// Precision, recall and their harmonic mean for one class, each from 0 to 1; `None` where it would divide by
/// zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassScores {
    /// Images of the class.
    pub images: usize,
    /// The share of right ones among the images that were taken for this class.
    pub precision: Option<f64>,
    /// The share of right ones among the images of this class.
    pub recall: Option<f64>,
    pub f1: Option<f64>,
}

impl Confusion {
    pub fn new(classes: usize) -> Self {
        Confusion { counts: vec![vec![0; classes]; classes] }
    }

    /// Counts an image. A label or prediction that is no class is ignored.
    pub fn add(&mut self, label: usize, predicted: usize) {
        if let Some(count) = self.counts.get_mut(label).and_then(|row| row.get_mut(predicted)) {
            *count += 1;
        }
    }

    pub fn classes(&self) -> usize {
        self.counts.len()
    }

    pub fn count(&self, label: usize, predicted: usize) -> usize {
        self.counts[label][predicted]
    }

    /// The number of images of a class.
    pub fn images(&self, label: usize) -> usize {
        self.counts[label].iter().sum()
    }

    /// The class with the most images and its share of all of them, which is the top-1 of always answering with it.
    /// `None` without images.
    pub fn largest_class(&self) -> Option<(usize, f64)> {
        let counts: Vec<usize> = (0..self.classes()).map(|class| self.images(class)).collect();
        let all = counts.iter().sum::<usize>();
        // The first of several classes of the same size.
        let (class, images) =
            counts.into_iter().enumerate().max_by_key(|&(i, n)| (n, std::cmp::Reverse(i)))?;
        (all > 0).then(|| (class, images as f64 / all as f64))
    }

    pub fn scores(&self, class: usize) -> ClassScores {
        let right = self.counts[class][class];
        let (images, taken) = (self.images(class), self.counts.iter().map(|row| row[class]).sum::<usize>());
        let share = |of: usize| (of > 0).then(|| right as f64 / of as f64);
        let f1 = (images + taken > 0).then(|| 2.0 * right as f64 / (images + taken) as f64);
        ClassScores { images, precision: share(taken), recall: share(images), f1 }
    }

    /// The pairs of different classes that are confused most often: label, prediction, count; at most `limit`.
    pub fn most_confused(&self, limit: usize) -> Vec<(usize, usize, usize)> {
        let rows = self.counts.iter().enumerate();
        let mut pairs: Vec<(usize, usize, usize)> = rows
            .flat_map(|(label, row)| row.iter().enumerate().map(move |(other, &count)| (label, other, count)))
            .filter(|&(label, other, count)| label != other && count > 0)
            .collect();
        pairs.sort_by_key(|&(label, other, count)| (std::cmp::Reverse(count), label, other));
        pairs.truncate(limit);
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_definitions() {
        let mut confusion = Confusion::new(3);
        for (label, predicted, count) in [(0, 0, 8), (0, 1, 2), (1, 1, 5), (1, 0, 1), (2, 1, 1), (7, 1, 1)] {
            (0..count).for_each(|_| confusion.add(label, predicted));
        }
        let scores = confusion.scores(0);
        assert_eq!((scores.images, scores.precision, scores.recall), (10, Some(8.0 / 9.0), Some(0.8)));
        let (precision, recall) = (8.0 / 9.0, 0.8);
        assert!((scores.f1.unwrap() - 2.0 * precision * recall / (precision + recall)).abs() < 1e-12);
        let never = confusion.scores(2);
        assert_eq!((never.precision, never.recall, never.f1), (None, Some(0.0), Some(0.0)));
        assert_eq!(Confusion::new(1).scores(0).f1, None);
        assert_eq!(confusion.largest_class(), Some((0, 10.0 / 17.0)));
        assert_eq!((Confusion::new(3).largest_class(), Confusion::new(0).largest_class()), (None, None));
        assert_eq!(confusion.most_confused(2), [(0, 1, 2), (1, 0, 1)]);
    }
}
